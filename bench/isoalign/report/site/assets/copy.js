// Copies a command; where the browser gives no clipboard, it is selected instead.
document.querySelectorAll(".copy").forEach((button) => {
  const code = button.parentElement.querySelector("code");
  const say = (text) => { button.textContent = text; setTimeout(() => { button.textContent = "Copy"; }, 2000); };
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      say("Copied");
    } catch {
      getSelection().selectAllChildren(code);
      say("Selected");
    }
  });
});
