// Samples side by side. Every text of a model is set as textContent, so it stays a text whatever it holds.
(() => {
  const data = globalThis.isoalignSamples, form = document.getElementById("controls");
  if (!data || !form) return;
  const get = (id) => document.getElementById(id);
  const make = (tag, text = "", className = "") => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  const MOST = 12;  // runs at once
  const runs = new Map(data.runs.map((run) => [run.id, run]));
  const named = (run) => `${run.row}, seed ${run.seed}` + (data.sections.length > 1 ? ` (${data.sections[run.section]})` : "");
  const state = { prompt: 0, draw: 0, runs: [...data.first] };

  function read() {
    const told = new URLSearchParams(location.hash.slice(1));
    const prompt = data.prompts.findIndex((one) => one.id === told.get("prompt"));
    const draw = Number(told.get("draw"));
    state.prompt = Math.max(0, prompt);
    state.draw = Number.isInteger(draw) && draw > 0 && draw < data.draws ? draw : 0;
    const asked = (told.get("runs") ?? "").split(",").filter(Boolean);
    const known = asked.filter((id) => runs.has(id));
    if (known.length) state.runs = known.length === 1 ? [...new Set([...known, ...data.first])] : known.slice(0, MOST);
    const lost = asked.length - known.length + (told.get("prompt") && prompt < 0 ? 1 : 0);
    get("status").dataset.lost = lost ? "The address names what is not in this report. " : "";
  }

  function write() {
    const told = new URLSearchParams({ prompt: data.prompts[state.prompt].id, draw: state.draw, runs: state.runs.join(",") });
    history.replaceState(null, "", `#${told}`);
  }

  const mode = () => get("blur").value;
  const hides = (score) => mode() === "all" || (mode() === "scored" && !(score !== null && score < data.threshold));

  function textOf([text, length], score, label) {
    const box = make("div", "", "sample"), words = make("p", text || "(an empty text)", "words");
    words.dir = "auto";
    if (!text) words.classList.add("none");
    box.append(words);
    if (length) box.append(make("p", `The first ${[...text].length.toLocaleString("en")} of ${length.toLocaleString("en")} characters.`, "said"));
    if (!text) return box;
    const button = make("button");
    button.type = "button";
    const set = (hidden) => {
      words.classList.toggle("blurred", hidden);
      words.inert = hidden;
      if (hidden) words.setAttribute("aria-hidden", "true"); else words.removeAttribute("aria-hidden");
      button.textContent = hidden ? "Show" : "Blur";
      button.setAttribute("aria-label", `${hidden ? "Show" : "Blur"} the text of ${label}`);
    };
    button.addEventListener("click", () => set(!words.classList.contains("blurred")));
    set(hides(score));
    box.append(button);
    return box;
  }

  function answer(run) {
    const article = make("article", "", "answer"), title = make("h3"), link = make("a", named(run));
    link.href = run.page;
    title.append(link);
    article.append(title);
    const place = /^\d/.test(run.place) ? `rank ${run.place}` : run.place;
    const found = run.texts.length ? run.texts[state.prompt]?.[state.draw] : undefined;
    if (found) {
      const [text, score, kl, length] = found;
      const figures = [place, score === null ? "no score" : `${data.noun} ${score.toFixed(3)}`, kl === null ? "KL unknown" : `KL ${kl.toFixed(2)} nats`];
      article.append(make("p", figures.join(" · "), "said"), textOf([text, length], score, named(run)));
    } else if (run.texts.length) {
      article.append(make("p", "It has no answer to this prompt at this draw.", "none"));
    }
    for (const note of run.notes) article.append(make("p", note, "said"));
    return article;
  }

  function show(said = true) {
    const prompt = data.prompts[state.prompt];
    get("prompt").value = String(state.prompt);
    get("draw").value = String(state.draw);
    get("prompt-text").replaceChildren(textOf(prompt.text, null, "the prompt"));
    get("answers").replaceChildren(...state.runs.map((id) => answer(runs.get(id))));
    get("count").textContent = `${state.runs.length} of ${data.runs.length}`;
    for (const box of get("runs").querySelectorAll("input")) box.checked = state.runs.includes(box.value);
    const blurred = get("answers").querySelectorAll(".blurred").length;
    if (said) get("status").textContent = `${get("status").dataset.lost ?? ""}Prompt ${state.prompt + 1} of ${data.prompts.length}, ` +
      `draw ${state.draw + 1} of ${data.draws}, ${state.runs.length} runs, ${blurred} texts blurred. ${data.score}.`;
    get("status").dataset.lost = "";
  }

  const step = (what, count, by) => { state[what] = (state[what] + by + count) % count; write(); show(); };
  const choose = (what) => { state[what] = Number(get(what).value); write(); show(); };

  function controls() {
    get("prompt").append(...data.prompts.map((one, i) => new Option(`${i + 1} of ${data.prompts.length}${one.about ? ` · ${one.about}` : ""}`, i)));
    get("draw").append(...Array.from({ length: data.draws }, (_, i) => new Option(`${i + 1} of ${data.draws}`, i)));
    for (const [what, count] of [["prompt", data.prompts.length], ["draw", data.draws]]) {
      get(what).addEventListener("change", () => choose(what));
      get(`${what}-back`).addEventListener("click", () => step(what, count, -1));
      get(`${what}-on`).addEventListener("click", () => step(what, count, 1));
    }
    get("blur").addEventListener("change", () => show());
    get("runs").append(...data.runs.map((run) => {
      const label = make("label"), box = make("input");
      Object.assign(box, { type: "checkbox", value: run.id });
      label.append(box, ` ${named(run)}${run.texts.length ? "" : " (no samples here)"}`);
      box.addEventListener("change", () => {
        if (box.checked && state.runs.length === MOST) {
          box.checked = false;
          get("status").textContent = `At most ${MOST} runs are shown at once.`;
          return;
        }
        state.runs = box.checked ? [...state.runs, run.id] : state.runs.filter((id) => id !== run.id);
        write();
        show();
      });
      return label;
    }));
    get("filter").addEventListener("input", () => {
      const wanted = get("filter").value.toLowerCase();
      for (const label of get("runs").children) label.hidden = !label.textContent.toLowerCase().includes(wanted);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    addEventListener("hashchange", () => { read(); show(); });
  }

  controls();
  read();
  show();
})();
