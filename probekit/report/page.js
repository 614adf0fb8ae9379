"use strict";
// Draws the figures when they come into view, in the colours of the reader's theme; tabs, copy buttons, and the game board.
(() => {
  const style = JSON.parse(document.getElementById("style").textContent);
  const night = window.matchMedia("(prefers-color-scheme: dark)");
  const data = (element) => element.querySelector("script[type='application/json']").textContent;
  const drawn = new Map(); // plot element -> its JSON text

  function draw(element) {
    if (!drawn.has(element)) {
      drawn.set(element, data(element));
      element.textContent = "";
    }
    let text = drawn.get(element);
    if (night.matches) {
      for (const [light, dark] of Object.entries(style.colors)) text = text.replaceAll(light, dark);
    }
    const { data: traces, layout } = JSON.parse(text);
    layout.template = night.matches ? style.dark : style.light;
    Object.assign(layout, { autosize: true, dragmode: false, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" });
    Plotly.react(element, traces, layout, {
      responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false, showTips: false,
    });
  }

  const plots = [...document.querySelectorAll(".plot")];
  if (plots.length) {
    const watcher = new IntersectionObserver((seen) => {
      for (const { isIntersecting, target } of seen) {
        if (isIntersecting) { watcher.unobserve(target); draw(target); }
      }
    }, { rootMargin: "800px 0px" });
    plots.forEach((plot) => watcher.observe(plot));
    night.addEventListener("change", () => [...drawn.keys()].forEach(draw));
    window.addEventListener("beforeprint", () => plots.forEach(draw));
  }

  for (const tabs of document.querySelectorAll(".tabs")) {
    const buttons = [...tabs.querySelectorAll(":scope > .tablist > button")];
    const panels = [...tabs.querySelectorAll(":scope > [role=tabpanel]")];
    buttons.forEach((button, chosen) => button.addEventListener("click", () => {
      buttons.forEach((b, i) => b.setAttribute("aria-selected", String(i === chosen)));
      panels.forEach((panel, i) => { panel.hidden = i !== chosen; });
      panels[chosen].querySelectorAll(".plot").forEach((plot) => drawn.has(plot) && Plotly.Plots.resize(plot));
    }));
  }

  for (const button of document.querySelectorAll(".copy")) {
    const label = button.textContent;
    button.addEventListener("click", async () => {
      const words = button.parentElement.querySelector("pre");
      try {
        await navigator.clipboard.writeText(words.textContent);
        button.textContent = "Copied";
      } catch { // a page opened from a file may not write to the clipboard: select the text instead
        getSelection().selectAllChildren(words);
        button.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl+C";
      }
      setTimeout(() => { button.textContent = label; }, 1500);
    });
  }

  const SVG = "http://www.w3.org/2000/svg";
  function shape(name, attributes, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  }

  // Weighted mean of the colours of the pieces: an unsure probe gives a colour in between.
  function blend(weights, colors) {
    const total = weights.reduce((sum, w) => sum + w, 0) || 1;
    const mixed = [1, 3, 5].map((at) => Math.round(
      weights.reduce((sum, w, k) => sum + w * parseInt(colors[k].slice(at, at + 2), 16), 0) / total));
    return `rgb(${mixed.join(",")})`;
  }

  for (const figure of document.querySelectorAll(".game")) {
    const game = JSON.parse(data(figure));
    const pieces = game.colors.map((color, k) => k).filter((k) => game.colors[k]);
    const find = (name) => figure.querySelector(name);
    const slider = find("input"), status = find(".status"), bars = find(".errors");
    const reading = (move, square) => {
      const p = game.belief[move][square];
      return p.indexOf(Math.max(...p));
    };
    const wrong = game.truth.map((board, move) => board.map((t, square) => t >= 0 && reading(move, square) !== t));
    const counts = wrong.map((board) => board.filter(Boolean).length);

    function board(svg, move, believed) {
      svg.setAttribute("viewBox", `-0.7 -0.05 ${game.columns + 0.75} ${game.rows + 0.75}`);
      const parts = [];
      game.names.forEach((name, square) => {
        const x = square % game.columns, y = Math.floor(square / game.columns);
        const p = game.belief[move][square], truth = game.truth[move][square];
        const group = shape("g", {});
        group.append(shape("rect", { x, y, width: 1, height: 1, class: "felt" }));
        const weights = believed ? pieces.map((k) => p[k] / 1000) : pieces.map((k) => (k === truth ? 1 : 0));
        const there = Math.min(1, weights.reduce((sum, w) => sum + w, 0));
        if (there > 0.02) {
          const fill = blend(weights, pieces.map((k) => game.colors[k]));
          group.append(shape("circle", { cx: x + 0.5, cy: y + 0.5, r: 0.39, fill, opacity: there.toFixed(3) }));
        }
        if (name === game.moves[move].toLowerCase()) {
          group.append(shape("circle", { cx: x + 0.5, cy: y + 0.5, r: 0.09, fill: "#e0533d", stroke: "#fff", "stroke-width": 0.03 }));
        }
        if (believed && wrong[move][square]) {
          group.append(shape("rect", { x: x + 0.05, y: y + 0.05, width: 0.9, height: 0.9, class: "wrong" }));
          group.append(shape("path", { d: `M${x + 0.12} ${y + 0.12}l.2 .2m0 -.2l-.2 .2`, class: "wrong" }));
        }
        const odds = game.classes.map((c, k) => `${c} ${(p[k] / 10).toFixed(0)} %`).join(", ");
        group.append(shape("title", {}, believed
          ? `${name}: ${odds}; in truth ${game.classes[truth] ?? "unknown"}` : `${name}: ${game.classes[truth] ?? "unknown"}`));
        parts.push(group);
      });
      for (let c = 0; c < game.columns; c++) {
        parts.push(shape("text", { x: c + 0.5, y: game.rows + 0.45, class: "edge" }, String.fromCharCode(97 + c)));
      }
      for (let r = 0; r < game.rows; r++) parts.push(shape("text", { x: -0.32, y: r + 0.62, class: "edge" }, r + 1));
      svg.replaceChildren(...parts);
    }

    const most = Math.max(1, ...counts);
    bars.setAttribute("viewBox", `0 0 ${game.moves.length} 10`);
    bars.setAttribute("preserveAspectRatio", "none");
    counts.forEach((count, move) => {
      const height = Math.max(0.25, 10 * count / most);
      const bar = shape("rect", { x: move + 0.1, y: 10 - height, width: 0.8, height });
      bar.append(shape("title", {}, `move ${move + 1}, ${game.moves[move]}: ${count} wrong`));
      bars.append(bar);
    });
    bars.addEventListener("click", (event) => {
      const box = bars.getBoundingClientRect();
      show(Math.floor((event.clientX - box.left) / box.width * game.moves.length));
    });

    let now = 0;
    function show(move) {
      now = Math.max(0, Math.min(game.moves.length - 1, move));
      slider.value = now;
      slider.setAttribute("aria-valuetext", `move ${now + 1}: ${game.moves[now]}`);
      board(find(".belief"), now, true);
      board(find(".truth"), now, false);
      const count = counts[now];
      status.textContent = `Move ${now + 1} of ${game.moves.length}: ${game.moves[now]}. ` +
        (count ? `${count} of ${game.names.length} squares read wrongly.` : "Every square read rightly.");
      [...bars.children].forEach((bar, i) => bar.classList.toggle("now", i === now));
    }
    slider.max = game.moves.length - 1;
    slider.addEventListener("input", () => show(Number(slider.value)));
    find(".back").addEventListener("click", () => show(now - 1));
    find(".forth").addEventListener("click", () => show(now + 1));
    figure.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) { event.preventDefault(); show(now + step); }
    });
    show(game.start);
  }
})();
