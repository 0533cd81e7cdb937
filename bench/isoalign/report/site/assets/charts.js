// Draws each chart when it is scrolled to, and says what a mark says of itself: to a pointer, to a key and to a screen reader.
(() => {
  const words = document.createElement("div");
  words.className = "tip";
  words.setAttribute("role", "status");
  words.hidden = true;
  document.body.append(words);

  const hide = () => { words.hidden = true; document.querySelectorAll(".told").forEach((mark) => mark.classList.remove("told")); };
  const tell = (mark) => {
    hide();
    mark.classList.add("told");
    words.textContent = mark.getAttribute("aria-label");
    words.hidden = false;
    const box = mark.getBoundingClientRect(), own = words.getBoundingClientRect();
    const left = Math.max(4, Math.min(box.x + box.width / 2 - own.width / 2, innerWidth - own.width - 4));
    const above = box.y - own.height - 8;
    words.style.left = `${left + scrollX}px`;
    words.style.top = `${(above > 4 ? above : box.bottom + 8) + scrollY}px`;
  };
  // Marks say a row's name and then its figures; a line says its name alone, and is passed over by keys.
  const marksOf = (plot) => [...plot.querySelectorAll("path[aria-label]")];
  const figuresOf = (plot) => marksOf(plot).filter((mark) => mark.getAttribute("aria-label").includes("\n"));

  function listen(plot) {
    let place = -1;
    plot.addEventListener("pointerover", (event) => {
      const mark = event.target.closest("[aria-label]");
      if (mark && marksOf(plot).includes(mark)) tell(mark); else hide();
    });
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const marks = figuresOf(plot);
      if (event.key === "Escape") hide();
      if (!step || !marks.length) return;
      event.preventDefault();
      place = (place + step + marks.length) % marks.length;
      tell(marks[place]);
    });
  }

  for (const grid of document.querySelectorAll(".grid")) {
    const cells = [...grid.querySelectorAll("[aria-label]")];
    grid.addEventListener("pointerover", (event) => { const cell = event.target.closest("td")?.querySelector("[aria-label]"); if (cell) tell(cell); else hide(); });
    grid.addEventListener("pointerleave", hide);
    grid.addEventListener("focusin", (event) => tell(event.target));
    grid.addEventListener("focusout", hide);
    grid.addEventListener("keydown", (event) => {
      const [down, across] = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key] ?? [0, 0];
      if (!down && !across) return;
      event.preventDefault();
      let { rowIndex, cellIndex } = event.target.closest("td") && { rowIndex: event.target.closest("tr").rowIndex, cellIndex: event.target.closest("td").cellIndex };
      for (;;) {  // the diagonal has no cells to stop at
        const next = grid.rows[rowIndex += down]?.cells[cellIndex += across];
        if (!next || !cells.length) return;
        const stop = next.querySelector("[aria-label]");
        if (stop) return stop.focus();
        if (next.tagName === "TH") return;
      }
    });
  }

  let chosen = "";
  const mark = (plot) => {
    const own = (each) => each.getAttribute("aria-label").split("\n")[0] === chosen;
    const marks = marksOf(plot), known = marks.some(own);
    for (const each of marks) {
      each.classList.toggle("dim", known && !own(each));
      each.classList.toggle("chosen", known && own(each));
    }
  };
  function highlight(name) {
    chosen = name;
    document.querySelectorAll(".plot[data-drawn]").forEach(mark);
  }

  const config = {
    background: null, font: getComputedStyle(document.body).fontFamily, view: { stroke: null },
    axis: { labelColor: "var(--ink)", titleColor: "var(--faint)", gridColor: "var(--grid)", domainColor: "var(--faint)", tickColor: "var(--faint)",
      titleFontWeight: "normal", labelFontSize: 12, titleFontSize: 12, labelLimit: 220 },
    legend: { labelColor: "var(--ink)", titleColor: "var(--faint)", labelFontSize: 12, titleFontSize: 12, labelLimit: 260 },
    header: { labelColor: "var(--ink)", titleColor: "var(--faint)", labelFontSize: 12 },
    title: { color: "var(--ink)" }, text: { color: "var(--ink)" }, rule: { color: "var(--faint)" }, mark: { tooltip: null },
  };

  async function draw(plot) {
    const spec = JSON.parse(document.getElementById(plot.dataset.spec).textContent);
    try {
      await vegaEmbed(plot, { ...spec, config: { ...config, ...spec.config } },
        { renderer: "svg", actions: false, ast: true, defaultStyle: false, tooltip: false, hover: false });
      listen(plot);
      plot.dataset.drawn = "yes";
      mark(plot);
    } catch (error) {
      plot.textContent = "This chart can't be drawn here; its table is below.";
      console.error(error);
    }
  }

  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "200px" });
  document.querySelectorAll(".plot").forEach((plot) => seen.observe(plot));
  globalThis.isoalignCharts = { observe: (plot) => seen.observe(plot), highlight };
})();
