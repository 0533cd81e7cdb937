// The theme: that of the system until the reader chooses another one.
(() => {
  const root = document.documentElement;
  const kept = () => { try { return localStorage.getItem("isoalign-theme"); } catch { return null; } };
  const keep = (theme) => { try { localStorage.setItem("isoalign-theme", theme); } catch { /* a page without storage */ } };
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  if (["light", "dark"].includes(kept())) root.dataset.theme = kept();
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const name = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      keep(root.dataset.theme);
      name();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
    name();
  });
})();
