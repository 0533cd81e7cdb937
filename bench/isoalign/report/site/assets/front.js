// Sorts and filters the boards, and keeps what was chosen in the page's address, so that a link leads to the same view.
(() => {
  const form = document.querySelector(".filter");
  if (!form) return;
  form.closest("details").open = innerWidth >= 640;
  const fields = [...form.querySelectorAll("input, select")];
  const sections = [...document.querySelectorAll(".section")];
  const count = document.getElementById("count");
  const value = (name) => document.getElementById(name)?.value ?? "";

  function filter() {
    let rows = 0, all = 0;
    const find = value("find").trim().toLowerCase(), seeds = Number(value("seeds")), family = value("feedback");
    for (const section of sections) {
      const shown = ["task", "budget", "base"].every((name) => !value(name) || section.dataset[name] === value(name));
      section.hidden = !shown;
      let here = 0;
      for (const row of section.querySelectorAll(".rows > tbody > tr")) {
        const fits = row.dataset.name.includes(find) && Number(row.dataset.seeds) >= seeds && (!family || row.dataset.family === family);
        row.hidden = !fits;
        here += fits;
        all += 1;
      }
      const none = section.querySelector(".none");
      if (none) none.hidden = here > 0;
      if (shown) rows += here;
    }
    count.textContent = `${rows} of ${all} rows`;
    globalThis.isoalignCharts?.highlight(value("highlight"));
  }

  function remember() {
    const chosen = new URLSearchParams(fields.filter((field) => field.value).map((field) => [field.id, field.value]));
    const sorted = document.querySelector("th[aria-sort]");
    if (sorted) chosen.set("sort", `${sorted.closest(".section").id}.${sorted.cellIndex}.${sorted.ariaSort}`);
    try { history.replaceState(null, "", `#${chosen}`); } catch { /* some browsers keep a file's address as it is */ }
  }

  function recall() {
    if (!location.hash.includes("=")) return;
    const chosen = new URLSearchParams(location.hash.slice(1));
    for (const field of fields) field.value = chosen.get(field.id) ?? "";
    const parts = (chosen.get("sort") ?? "").split("."), [place, order] = parts.splice(-2);  // a task may have dots in its name
    const heading = document.getElementById(parts.join("."))?.querySelectorAll(".rows th[scope=col]")[Number(place)];
    if (heading) sort(heading, order === "descending");
  }

  function sort(heading, down) {
    const table = heading.closest("table"), body = table.tBodies[0], place = heading.cellIndex;
    for (const other of document.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const numeric = heading.classList.contains("number") || body.querySelector(`td:nth-child(${place + 1})[data-v]`);
    const keyed = [...body.rows].map((row) => {
      const cell = row.cells[place], given = cell.dataset.v;
      return [numeric ? (given === undefined ? null : Number(given)) : cell.textContent.trim().toLowerCase(), row];
    });
    keyed.sort(([a], [b]) => a === b ? 0 : a === null ? 1 : b === null ? -1 : (a < b ? -1 : 1) * (down ? -1 : 1));
    body.append(...keyed.map(([, row]) => row));
  }

  document.addEventListener("click", (event) => {
    const sorter = event.target.closest(".sort"), set = event.target.closest(".set");
    if (sorter) {
      const heading = sorter.closest("th");
      const first = heading.classList.contains("number") && heading.textContent.includes("↑");
      sort(heading, heading.ariaSort ? heading.ariaSort === "ascending" : first);
      remember();
    }
    if (set) {
      set.setAttribute("aria-pressed", set.ariaPressed !== "true");
      const pressed = [...set.parentElement.querySelectorAll("[aria-pressed=true]")].map((button) => button.dataset.set);
      set.closest(".board").querySelector("table").dataset.sets = pressed.join(" ");
    }
  });
  form.addEventListener("input", () => { filter(); remember(); });
  form.addEventListener("reset", () => setTimeout(() => { filter(); remember(); }));
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => { recall(); filter(); });
  recall();
  filter();
})();
