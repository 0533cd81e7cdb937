// Any two rows of a board. Names are set as textContent, so they stay text whatever they hold.
(() => {
  const data = globalThis.isoalignPairs;
  if (!data) return;
  const get = (id) => document.getElementById(id);
  const make = (tag, text, attributes = {}) => {
    const svg = ["line", "circle"].includes(tag);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Number(Math.abs(value).toPrecision(3))}`;
  const probability = (p) => (p < 0.001 ? "< 0.001" : p.toFixed(3));
  const quoted = (word) => (/^[\w.\-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\"'\"'")}'`);
  const state = { section: 0, a: 0, b: 1 };
  const section = () => data.sections[state.section];

  function read() {
    const told = new URLSearchParams(location.hash.slice(1)), number = Number(told.get("section") ?? 1) - 1;
    state.section = data.sections[number] ? number : 0;
    const rows = section().rows, place = (name) => rows.findIndex((row) => row.name === name);
    const [a, b] = ["a", "b"].map((side) => place(told.get(side)));
    state.a = a >= 0 ? a : b === 0 ? 1 : 0;
    state.b = b >= 0 ? b : rows.findIndex((_, i) => i !== state.a);
    state.lost = ["a", "b"].filter((side) => told.get(side) && place(told.get(side)) < 0);
  }

  function write() {
    const [a, b] = [state.a, state.b].map((i) => section().rows[i]?.name ?? "");
    const told = new URLSearchParams(data.sections.length > 1 ? { section: state.section + 1, a, b } : { a, b });
    history.replaceState(null, "", `#${told}`);
  }

  // The pair as A, B: the data have each once, so its difference may have to be turned.
  function comparison() {
    const { a, b } = state, found = section().pairs.findIndex(([i, j]) => (i === a && j === b) || (i === b && j === a));
    if (found < 0) return null;
    const [first, second, value, low, high, p, phrase, n, missing] = section().pairs[found];
    const turned = first !== a;
    const names = { "{A}": section().rows[first].name, "{B}": section().rows[second].name };
    const words = section().phrases[phrase];
    return {
      words, said: words.replace(/\{[AB]\}/g, (side) => names[side]), p, n, missing: missing ?? 0, ranked: found < section().ranked,
      value: turned && value !== null ? -value : value, low: turned && high !== null ? -high : low, high: turned && low !== null ? -low : high,
    };
  }

  function draw({ value, low, high }) {
    const reach = 1.15 * Math.max(Math.abs(low), Math.abs(high), 1e-9), x = (v) => 300 + (280 * v) / reach;
    const line = (x1, y1, x2, y2, name) => make("line", "", { x1, y1, x2, y2, class: name });
    get("drawn").replaceChildren(
      line(300, 6, 300, 50, "zero"), line(x(low), 28, x(high), 28, "span"), line(x(low), 20, x(low), 36, "span"), line(x(high), 20, x(high), 36, "span"),
      make("circle", "", { cx: x(value), cy: 28, r: 6 }),
    );
  }

  function show() {
    const one = section(), [a, b] = [one.rows[state.a], one.rows[state.b]], found = a && b ? comparison() : null;
    get("section").value = String(state.section);
    get("a").value = String(state.a);
    get("b").value = String(state.b);
    const [words, meaning] = explained(a, b, found);
    get("verdict").textContent = words;
    const lost = state.lost?.length ? "The address names a row that this board does not have. " : "";
    get("meaning").textContent = lost + meaning;
    const known = found && [found.value, found.low, found.high].every((bound) => bound !== null);
    get("interval").hidden = !known;
    if (known) {
      get("interval-title").textContent = `${one.axis}: A − B`;
      get("numbers").textContent = `${signed(found.value)}, 95% interval ${signed(found.low)} to ${signed(found.high)}, ${found.p === null ? "no test" : `p\u00a0${probability(found.p)} after correction`}`;
      const count = found.ranked ? one.ranked : one.pairs.length - one.ranked;
      const many = `${count.toLocaleString("en")} ${count === 1 ? "pair" : "pairs"}`;
      const family = found.ranked ? `${many} of ranked rows` : `${many} with rows that have no rank`;
      const without = found.missing ? ` ${found.missing} more prompts have no value on both sides.` : "";
      get("tested").textContent = `${one.difference} Paired on ${found.n.toLocaleString("en")} prompts; Holm's correction is over ${family}.${without}${one.unequal.map((line) => ` Not equal: ${line}.`).join("")}`;
      draw(found);
    }
    beside(one, a, b);
  }

  function explained(a, b, found) {
    if (!a || !b) return ["There is no second row", "This board has one row, so there is nothing to compare it with."];
    if (a === b) return ["A and B are the same row", "Choose another one."];
    if (!found) {
      const why = [a, b].filter((row) => row.why).map((row) => `${row.name} ${row.why}.`);
      return ["Not compared", why.join(" ") || "The board has no comparison of these two rows."];
    }
    const meaning = section().meaning[found.words] ?? "The difference holds after correction for the number of pairs.";
    const one = found.words === "one seed" ? [a, b].filter((row) => row.seeds === 1).map((row) => row.name).join(" and ") : "";
    return [found.words === found.said ? `${a.name} and ${b.name}: ${found.said}` : found.said, one ? `${meaning} One seed: ${one}.` : meaning];
  }

  function beside(one, a, b) {
    get("name-a").textContent = a ? `A: ${a.name}` : "A";
    get("name-b").textContent = b ? `B: ${b.name}` : "B";
    const facts = [["Place on the board", (row) => row.place], ["Seeds", (row) => String(row.seeds)], ["Learns from", (row) => row.learns]];
    const lines = [...facts, ...one.metrics.map((heading, i) => [heading, (row) => row.cells[i]])];
    get("metrics").replaceChildren(...lines.map(([heading, value]) => {
      const line = make("tr", "");
      line.append(make("th", heading, { scope: "row" }), ...[a, b].map((row) => make("td", row ? value(row) : "–", { class: "number" })));
      return line;
    }));
    get("command").textContent = ["isoalign compare", ...[a, b].filter(Boolean).map((row) => quoted(row.name)), "--task", quoted(data.task)].join(" ");
    const several = [a, b].filter((row) => row?.shared).map((row) => row.name);
    get("shared").textContent = several.length ? `Several boards have a row ${several.join(" and a row ")}: name cards by path in its place.` : "";
    const pages = [a, b].filter(Boolean).flatMap((row) => row.runs);
    const ids = [a, b].filter(Boolean).map((row) => row.runs[0][0]).join(",");
    const link = (text, path) => make("a", text, { href: path });
    get("links").replaceChildren(link("Their samples side by side", `${data.samples}#${new URLSearchParams({ runs: ids })}`), ...pages.slice(0, 12).map(([, name, path]) => link(name, path)));
  }

  function rows() {
    for (const side of ["a", "b"]) get(side).replaceChildren(...section().rows.map((row, i) => new Option(row.name, i)));
  }

  get("section").replaceChildren(...data.sections.map((one, i) => new Option(one.title, i)));
  const change = (what, value) => { state[what] = value; state.lost = []; write(); show(); };
  get("section").addEventListener("change", () => {
    Object.assign(state, { section: Number(get("section").value), a: 0, b: 1 });
    rows();
    change("a", 0);
  });
  for (const side of ["a", "b"]) get(side).addEventListener("change", () => change(side, Number(get(side).value)));
  get("swap").addEventListener("click", () => { [state.a, state.b] = [state.b, state.a]; change("a", state.a); });
  get("controls").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", () => { read(); rows(); show(); });
  read();
  rows();
  show();
})();
