"use strict";
// The card of one feature of an SAE, and what it is made of. `place` is where each feature's card stands among `data.cards`.
// Every text of the data goes into the page as a text node or an attribute, never as markup.
function featureCards(data, place) {
  const cards = data.cards, game = data.game;
  const [TOP, MIDDLE] = [0, 1]; // of a card's examples; the third are the hard negatives

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes ?? {})) {
      if (value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }
  function shape(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  const minus = (text) => String(text).replace("-", "−");
  const count = (n) => n.toLocaleString("en-US");
  const figure = (value, digits = 2) => value === null || value === undefined ? "–" : minus(value.toFixed(digits));
  const signed = (value, digits = 2) => (value > 0 ? "+" : "") + figure(value, digits);
  const level = (value) => value === null ? "–" : minus(String(Number(value.toPrecision(3))));
  const chance = (p) => p === null ? "–" : p >= 0.001 ? p.toPrecision(2) : p > 0 ? minus(p.toExponential(0)) : "below 1e−300";
  function share(part) {
    const percent = 100 * part / data.rows;
    return `${percent >= 10 ? percent.toFixed(0) : percent.toPrecision(2)}\u00a0%`;
  }
  const seen = (token) => token.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "");

  // What is known of a name, by the name of the figure.
  function evidence(card) {
    const out = {};
    data.evidence.forEach((key, i) => { out[key] = card.name.evidence[i]; });
    return out;
  }

  // Tokens that a feature fires on, most common first: what an unnamed feature is recognised by.
  function firesOn(card) {
    const found = new Map();
    for (const example of [...card.examples[TOP], ...card.examples[MIDDLE]]) {
      const token = data.pieces[example[3][example[4]]] ?? game?.squares[example[7]] ?? "";
      const text = token.trim() || seen(token).replaceAll(" ", "␣");
      if (text) found.set(text, (found.get(text) ?? 0) + 1);
    }
    return [...found].sort((a, b) => b[1] - a[1]).map(([text]) => text);
  }

  // ---- drawings

  function board(codes, move, squares, label) {
    const svg = shape("svg", { viewBox: `-0.05 -0.05 ${game.columns + 0.1} ${game.rows + 0.1}`, role: "img", "aria-label": label, class: "position" });
    game.squares.forEach((name, square) => {
      const x = square % game.columns, y = Math.floor(square / game.columns), k = codes.charCodeAt(square) - 48;
      const group = shape("g", {}, shape("title", {}, `${name}: ${game.classes[k] ?? "not known"}`));
      group.append(shape("rect", { x, y, width: 1, height: 1, class: "felt" }));
      if (game.colors[k]) group.append(shape("circle", { cx: x + 0.5, cy: y + 0.5, r: 0.39, fill: game.colors[k] }));
      if (square === move) group.append(shape("circle", { cx: x + 0.5, cy: y + 0.5, r: 0.13, fill: "#e0533d", stroke: "#fff", "stroke-width": 0.04 }));
      svg.append(group);
    });
    for (const square of squares) {
      svg.append(shape("rect", { x: square % game.columns + 0.05, y: Math.floor(square / game.columns) + 0.05, width: 0.9, height: 0.9, class: "wrong" }));
    }
    return svg;
  }

  // A board of values around zero: blue above, orange below.
  function field(values, most, squares, label, words) {
    const svg = shape("svg", { viewBox: `-0.7 -0.1 ${game.columns + 0.8} ${game.rows + 0.8}`, role: "img", "aria-label": label, class: "field" });
    values.forEach((value, square) => {
      const x = square % game.columns, y = Math.floor(square / game.columns);
      const strength = value === null ? 0 : Math.min(1, Math.abs(value) / most);
      const group = shape("g", {}, shape("title", {}, `${game.squares[square]}: ${value === null ? "none" : words(value)}`));
      const rect = shape("rect", { x, y, width: 0.96, height: 0.96, class: value === null ? "none" : value < 0 ? "under" : "over" });
      rect.style.setProperty("--share", `${Math.round(100 * strength)}%`);
      group.append(rect);
      if (value !== null && strength > 0.2) {
        const text = minus(most >= 10 ? Math.round(value) : value.toFixed(1));
        group.append(shape("text", { x: x + 0.48, y: y + 0.62, class: strength > 0.75 ? "in strong" : strength > 0.5 ? "in middling" : "in" }, text));
      }
      svg.append(group);
    });
    for (const square of squares) {
      svg.append(shape("rect", { x: square % game.columns - 0.02, y: Math.floor(square / game.columns) - 0.02, width: 1, height: 1, class: "spoken" }));
    }
    for (let c = 0; c < game.columns; c++) svg.append(shape("text", { x: c + 0.48, y: game.rows + 0.5, class: "edge" }, String.fromCharCode(97 + c)));
    for (let r = 0; r < game.rows; r++) svg.append(shape("text", { x: -0.35, y: r + 0.62, class: "edge" }, r + 1));
    return svg;
  }

  function histogram(card, threshold) {
    const bins = card.histogram, high = Math.max(1, ...bins), width = card.most / bins.length;
    const svg = shape("svg", { viewBox: `0 0 ${bins.length} 12`, preserveAspectRatio: "none", role: "img", class: "histogram",
      "aria-label": `Histogram of ${count(data.fired[card.feature])} non-zero activations up to ${level(card.most)}, median ${level(card.median)}` });
    bins.forEach((n, i) => {
      const height = n ? Math.max(0.3, 11.5 * n / high) : 0;
      const words = `${level(i * width)} to ${level((i + 1) * width)}: ${count(n)} rows`;
      svg.append(shape("rect", { x: i + 0.06, y: 12 - height, width: 0.88, height }, shape("title", {}, words)));
    });
    if (threshold > 0 && card.most > 0) {
      const x = Math.min(1, threshold / card.most) * bins.length;
      svg.append(shape("line", { x1: x, x2: x, y1: 0, y2: 12 }));
    }
    return svg;
  }

  // A value between 0 and 1 on a line: a dot, its interval down to the lower end, and a tick for the control.
  function strip(value, low, control) {
    const svg = shape("svg", { viewBox: "-2 0 104 12", preserveAspectRatio: "none", class: "strip", "aria-hidden": "true" });
    svg.append(shape("line", { x1: 0, x2: 100, y1: 6, y2: 6, class: "track" }));
    if (low !== null) svg.append(shape("line", { x1: 100 * low, x2: 100 * value, y1: 6, y2: 6, class: "interval" }));
    if (control !== null && control !== undefined) svg.append(shape("line", { x1: 100 * control, x2: 100 * control, y1: 0, y2: 12, class: "control" }));
    svg.append(shape("line", { x1: 100 * value, x2: 100 * value, y1: 2, y2: 10, class: "value" }));
    return svg;
  }

  // ---- the parts of a card

  function namePart(card) {
    const part = make("section", { class: "evidence" }, make("h4", {}, "Name"));
    if (!card.name) {
      const words = data.named ? "No name earned: nothing that was tried tells when this feature fires." : "No names were given.";
      part.append(make("p", {}, words));
      return part;
    }
    const name = card.name, e = evidence(card);
    part.append(make("p", {}, make("b", {}, name.text), ` (${name.kind}, from ${data.sources[name.source] ?? name.source})`));
    const rows = [
      ["balanced accuracy", e.balanced_accuracy, e.balanced_accuracy_low, e.shuffled],
      ["… against hard negatives", e.hard_accuracy, e.hard_accuracy_low, null],
      ...(e.fuzzing === null ? [] : [["fuzzing", e.fuzzing, null, null]]),
      ["precision", e.precision, e.precision_low, null],
      ["recall", e.recall, e.recall_low, null],
      ["F1", e.f1, null, null],
    ];
    const body = make("tbody");
    for (const [words, value, low, control] of rows) {
      body.append(make("tr", {}, make("th", { scope: "row" }, words), make("td", { class: "number" }, figure(value)),
        make("td", { class: "number" }, low === null ? "" : `≥ ${figure(low)}`), make("td", { class: "drawn" }, value === null ? "" : strip(value, low, control))));
      if (control !== null) {
        body.append(make("tr", { class: "control" }, make("th", { scope: "row" }, "names of other features"), make("td", { class: "number" }, figure(control)),
          make("td"), make("td", { class: "quiet" }, "the control")));
      }
    }
    const head = make("thead", {}, make("tr", {}, make("th", {}, "on rows that made no names"), make("th", { class: "number" }, "value"),
      make("th", { class: "number" }, "95 % interval"), make("th", { class: "drawn" }, make("span", {}, "0"), make("span", {}, "1"))));
    part.append(make("table", {}, head, body));
    part.append(make("p", { class: "quiet" }, `Fires from ${level(e.threshold)} on, at ${count(e.rows)} of these rows. p ${chance(e.p)}, q ${chance(e.q)}.`));
    if (name.rival) {
      part.append(make("p", { class: "quiet" }, "Best rival: ", make("b", {}, name.rival), ` (${figure(name.rivalMerit)}, against ${figure(name.merit)} for the name).`));
    }
    if (name.check) {
      const check = name.check;
      part.append(make("p", {}, make("b", { class: check.holds ? "good" : "bad" }, check.holds ? "The check holds" : "The check does not hold"),
        `: taking the feature out of the model changes the ${check.what} by ${signed(check.effect)} (95 % interval ${signed(check.low)} to ${signed(check.high)}), ` +
        `taking another feature out by ${signed(check.control)}; ${count(check.rows)} rows, p ${chance(check.p)}, q ${chance(check.q)}.`));
    } else part.append(make("p", { class: "quiet" }, "Not checked by taking the feature out of the model."));
    return part;
  }

  function contextLine(example, most) {
    const [sequence, position, value, tokens, at, shades, , , other, otherValue] = example;
    const strength = new Map();
    for (let i = 0; i < shades.length; i += 2) strength.set(shades[i], shades[i + 1]);
    const where = ` · sequence ${count(sequence)}, position ${count(position)}`;
    const words = other < 0 ? level(value) : `silent; feature ${other} is at ${level(otherValue)}`;
    const readout = make("span", { class: "readout" }, words);
    const line = make("p", { class: "context", role: "group", "aria-label": `Example, ${words}${where}` });
    const marks = [];
    const tell = (text, strong) => { readout.textContent = `“${text}” ${level(strong)}`; };
    const untell = () => { readout.textContent = words; };
    tokens.forEach((piece, i) => {
      const text = seen(data.pieces[piece]), strong = strength.get(i);
      const span = make(strong === undefined ? "span" : "mark", { class: i === at ? "here" : undefined }, text);
      if (strong !== undefined) {
        span.style.setProperty("--share", `${Math.round(100 * Math.min(1, strong / most))}%`);
        span.tabIndex = -1;
        span.append(make("span", { class: "unseen" }, ` (${level(strong)}) `));
        for (const event of ["mouseenter", "focus"]) span.addEventListener(event, () => tell(text, strong));
        for (const event of ["mouseleave", "blur"]) span.addEventListener(event, untell);
        marks.push(span);
      }
      line.append(span);
    });
    if (marks.length) { // one stop for the tab key a line; the arrow keys go from token to token
      const strongest = marks.find((mark) => mark.classList.contains("here")) ?? marks[0];
      strongest.tabIndex = 0;
      line.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], now = marks.indexOf(document.activeElement);
        if (!step || now < 0 || !marks[now + step]) return;
        event.preventDefault();
        marks[now].tabIndex = -1;
        marks[now + step].tabIndex = 0;
        marks[now + step].focus();
      });
    }
    return [line, make("p", { class: "where" }, readout, where)];
  }

  const legend = () => make("p", { class: "quiet legend" }, ...game.classes.flatMap((name, k) => {
    const disc = shape("svg", { viewBox: "0 0 1 1", "aria-hidden": "true" }, shape("rect", { width: 1, height: 1, class: "felt" }));
    if (game.colors[k]) disc.append(shape("circle", { cx: 0.5, cy: 0.5, r: 0.39, fill: game.colors[k] }));
    return [disc, `${name} `];
  }), "· a red dot marks the last move, a frame a square of the name");

  function examplesPart(card) {
    const part = make("section", { class: "examples" });
    const heads = ["Strongest", "Middle of its range", "Hard negatives: a nearest feature fires, this one does not"];
    card.examples.forEach((examples, kind) => {
      if (!examples.length) return;
      part.append(make("h4", {}, heads[kind]));
      if (game && kind === TOP) part.append(legend());
      const list = make("div", { class: game ? "boardlist" : "contextlist" });
      for (const example of examples) {
        const item = make("div");
        if (game) {
          const move = game.squares[example[7]];
          item.append(board(example[6], example[7], card.name?.squares ?? [], `Board at sequence ${example[0]}, position ${example[1]}${move ? `, last move ${move}` : ""}`));
        }
        item.append(...contextLine(example, card.most));
        list.append(item);
      }
      part.append(list);
    });
    if (!card.examples[TOP].length) part.append(make("p", {}, "It never fires at these rows."));
    return part;
  }

  function activityPart(card) {
    const threshold = card.name ? evidence(card).threshold : 0, n = data.fired[card.feature];
    const part = make("section", {}, make("h4", {}, "Activity"));
    part.append(make("p", {}, `Fires at ${count(n)} of ${count(data.rows)} rows (${share(n)}), median ${level(card.median)}, most ${level(card.most)}.`));
    if (n) {
      part.append(histogram(card, threshold), make("p", { class: "ends" }, make("span", {}, "0"), make("span", {}, level(card.most))));
      part.append(make("p", { class: "quiet" }, "Non-zero activations" + (threshold > 0 ? `; the line is the threshold, ${level(threshold)}, from which it counts as firing.` : ".")));
    }
    return part;
  }

  function averagePart(card) {
    if (!card.average) return null;
    const part = make("section", { class: "average" }, make("h4", {}, "Average board where it fires"));
    const most = Math.max(25, ...card.average.flat().map((value) => Math.abs(value ?? 0)));
    const fields = make("div", { class: "fields" });
    card.average.forEach((values, k) => {
      const name = game.classes[k], words = (value) => `${name} ${signed(value, 0)} points`;
      fields.append(make("figure", {}, make("figcaption", {}, name), field(values, most, card.name?.squares ?? [], `Share of ${name} on each square, minus that at all rows`, words)));
    });
    part.append(fields, make("p", { class: "quiet" }, "Share of each state where the feature fires minus its share at all rows, in percentage points: blue more often, orange more rarely."));
    return part;
  }

  function effectsPart(card) {
    if (card.effects) {
      const most = Math.max(1e-9, ...card.effects.map((value) => Math.abs(value ?? 0)));
      const part = make("section", { class: "effects" }, make("h4", {}, "Logit effects"));
      part.append(make("div", { class: "fields" }, make("figure", {}, field(card.effects, most, card.name?.squares ?? [], "Effect on the logit of each square", (value) => signed(value)))));
      part.append(make("p", { class: "quiet" }, "What it adds to the logit of each move, less the mean: blue promoted, orange suppressed."));
      return part;
    }
    if (!card.up) return null;
    const most = Math.max(...[...card.up, ...card.down].map(([, value]) => Math.abs(value)), 1e-9);
    const list = (words, tokens, side) => make("div", {}, make("h5", {}, words), make("ol", { class: "bars" }, ...tokens.map(([piece, value]) => {
      const bar = make("i", { class: side });
      bar.style.setProperty("--share", `${Math.round(100 * Math.abs(value) / most)}%`);
      return make("li", {}, make("code", {}, seen(data.pieces[piece])), make("span", { class: "number" }, signed(value)), bar);
    })));
    return make("section", { class: "effects" }, make("h4", {}, "Logit effects"),
      make("div", { class: "pair" }, list("Promoted", card.up, "over"), list("Suppressed", card.down, "under")));
  }

  function link(feature) {
    const at = place.get(feature);
    if (at === undefined) return make("span", { title: "has no card" }, `#${feature}`);
    return make("a", { href: `#feature-${feature}` }, `#${feature} ${cards[at].name?.text ?? ""}`.trim());
  }

  function nearPart(card) {
    const part = make("section", {});
    if (card.near.length) {
      part.append(make("h4", {}, "Nearest features"), make("ul", { class: "near" }, ...card.near.map(([feature, cosine]) => {
        const at = place.get(feature), hint = at === undefined ? (data.fired[feature] ? "no card" : "dead") : cards[at].name ? "" : firesOn(cards[at]).slice(0, 3).map(seen).join(" ");
        return make("li", {}, make("span", { class: "number" }, signed(cosine)), make("span", {}, link(feature), hint && make("span", { class: "quiet" }, ` ${hint}`)));
      })));
    }
    if (card.probe) {
      const [at, cosine, p] = card.probe;
      part.append(make("h4", {}, "Nearest probe"), make("p", {}, make("b", {}, data.probes.names[at]), `, cosine ${signed(cosine)}, p ${chance(p)}`));
      part.append(make("p", { class: "quiet" }, `Random directions come within ${figure(data.probes.chance)} of some feature (mean).`));
    }
    return part.childElementCount ? part : null;
  }

  const cardOf = (card) => make("div", { class: "card", id: `card-${card.feature}` },
    make("div", { class: "main" }, namePart(card), averagePart(card), examplesPart(card)),
    make("div", { class: "side" }, ...[activityPart(card), effectsPart(card), nearPart(card)].filter(Boolean)));

  return { make, cardOf, evidence, firesOn, seen, count, figure, chance, share };
}
