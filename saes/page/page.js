"use strict";
// The features of an SAE: search, a table of the names, and a list whose cards are drawn when they are opened.
(() => {
  const root = document.currentScript.previousElementSibling;
  const data = JSON.parse(root.querySelector("script").textContent);
  const cards = data.cards;
  const place = new Map(cards.map((card, i) => [card.feature, i]));
  const { make, cardOf, evidence, firesOn, seen, count, figure, chance, share } = featureCards(data, place);
  const STEP = 40; // rows added at a time
  const titleOf = (card) => card.name?.text ?? (data.named ? "no name earned" : "not named");

  function merit(card) { // what names are ordered by: the lowest of the accuracies against all, against hard negatives, and of marks
    const { balanced_accuracy: all, hard_accuracy: hard, fuzzing } = evidence(card);
    return Math.min(all ?? 0, hard ?? Infinity, fuzzing ?? Infinity);
  }

  const searched = new Map();
  function haystack(card) {
    if (!searched.has(card)) searched.set(card, [card.name?.text ?? "", ...firesOn(card)].join("\n").toLowerCase());
    return searched.get(card);
  }

  // ---- the list of features

  const opened = new Set();
  function row(card) {
    const item = make("li", { class: card.name ? "named" : undefined, id: `row-${card.feature}` });
    const hint = card.name ? "" : firesOn(card).slice(0, 5).map(seen).join("   ");
    const facts = [];
    if (card.name) {
      const e = evidence(card);
      facts.push(card.name.kind, `balanced accuracy ${figure(e.balanced_accuracy)} (control ${figure(e.shuffled)})`);
      if (card.name.check) facts.push(card.name.check.holds ? "check holds" : "check does not hold");
    }
    facts.push(`fires at ${share(data.fired[card.feature])}`);
    const button = make("button", { type: "button", "aria-expanded": "false", class: "opener" },
      make("span", { class: "id" }, `#${card.feature}`), make("span", { class: card.name ? "title" : "title quiet" }, titleOf(card), hint && make("span", { class: "hint" }, ` · on ${hint}`)),
      make("span", { class: "facts-line" }, facts.join(" · ")));
    const toggle = (open) => {
      button.setAttribute("aria-expanded", String(open));
      item.querySelector(":scope > .card")?.remove();
      opened[open ? "add" : "delete"](card.feature);
      if (open) {
        item.append(cardOf(card));
        button.setAttribute("aria-controls", `card-${card.feature}`);
      } else button.removeAttribute("aria-controls");
    };
    button.addEventListener("click", () => toggle(button.getAttribute("aria-expanded") === "false"));
    item.append(make("h3", {}, button));
    if (opened.has(card.feature)) toggle(true);
    return item;
  }

  const shows = [["all", "all with a card", () => true]];
  if (data.named) {
    shows.push(["named", "named", (card) => card.name], ["unnamed", "no name earned", (card) => !card.name]);
    for (const kind of ["precise", "fair"]) shows.push([kind, kind, (card) => card.name?.kind === kind]);
    for (const [source, words] of Object.entries(data.sources)) shows.push([source, `name from ${words}`, (card) => card.name?.source === source]);
    shows.push(["holds", "check holds", (card) => card.name?.check?.holds === true], ["fails", "check does not hold", (card) => card.name?.check?.holds === false]);
  }
  const orders = [
    ...(data.named ? [["evidence", "lower end of the name's evidence"]] : []), ["activity", "activity"], ["number", "number"],
  ];
  const before = {
    evidence: (a, b) => (b.name ? merit(b) : -1) - (a.name ? merit(a) : -1) || data.fired[b.feature] - data.fired[a.feature],
    activity: (a, b) => data.fired[b.feature] - data.fired[a.feature],
    number: () => 0,
  };

  const options = (given) => given.map(([value, words]) => make("option", { value }, words));
  const search = make("input", { type: "search", id: "feature-search", placeholder: "name, token or number", autocomplete: "off", spellcheck: "false" });
  const show = make("select", { id: "feature-show" }, ...options(shows
    .map(([value, words, fits]) => [value, `${words} (${count(cards.filter(fits).length)})`, fits])
    .filter(([value, words]) => value === "all" || !words.endsWith("(0)"))));
  const order = make("select", { id: "feature-order" }, ...options(orders));
  const status = make("p", { role: "status", class: "found" });
  const list = make("ol", { class: "features" });
  const more = make("button", { type: "button", class: "more" }, "Show more");
  let found = [], drawn = 0;

  function find() {
    const words = search.value.trim().toLowerCase(), fits = shows.find(([value]) => value === show.value)[2];
    const number = /^#\d+$/.test(words) ? Number(words.slice(1)) : null;
    found = cards.filter((card) => fits(card) && (number !== null ? card.feature === number
      : !words || String(card.feature) === words || haystack(card).includes(words)));
    found.sort(before[order.value]);
    const wanted = number ?? (/^\d+$/.test(words) ? Number(words) : null);
    let said = `${count(found.length)} of ${count(cards.length)} features with a card`;
    if (wanted !== null && !place.has(wanted)) {
      const n = data.fired[wanted];
      said += n === undefined ? `; there is no feature ${wanted}` : `; feature ${wanted} has none: it fires at ${count(n)} of ${count(data.rows)} rows`;
    }
    status.textContent = `${said}.`;
    list.replaceChildren();
    drawn = 0;
    extend();
    drawTable();
  }
  function extend() {
    list.append(...found.slice(drawn, drawn + STEP).map(row));
    drawn = Math.min(found.length, drawn + STEP);
    more.hidden = drawn >= found.length;
    more.textContent = `Show ${count(Math.min(STEP, found.length - drawn))} more of ${count(found.length - drawn)}`;
  }
  more.addEventListener("click", () => {
    const first = drawn;
    extend();
    list.children[first]?.querySelector("button").focus();
  });

  // ---- the table of names

  const columns = [
    ["feature", (card) => card.feature, (v) => `#${v}`],
    ["name", (card) => card.name.text],
    ["kind", (card) => card.name.kind],
    ["from", (card) => data.sources[card.name.source] ?? card.name.source],
    ["balanced accuracy", (card) => evidence(card).balanced_accuracy, figure, (card) => ` (≥ ${figure(evidence(card).balanced_accuracy_low)})`],
    ["control: names of others", (card) => evidence(card).shuffled, figure],
    ["against hard negatives", (card) => evidence(card).hard_accuracy, figure, (card) => evidence(card).hard_accuracy === null ? "" : ` (≥ ${figure(evidence(card).hard_accuracy_low)})`],
    ["fuzzing", (card) => evidence(card).fuzzing, figure],
    ["precision", (card) => evidence(card).precision, figure, (card) => ` (≥ ${figure(evidence(card).precision_low)})`],
    ["recall", (card) => evidence(card).recall, figure, (card) => evidence(card).recall === null ? "" : ` (≥ ${figure(evidence(card).recall_low)})`],
    ["q", (card) => evidence(card).q, chance],
    ["check", (card) => card.name.check ? (card.name.check.holds ? "holds" : "does not hold") : "not made"],
    ["fires at", (card) => data.fired[card.feature], share],
  ];
  const heads = make("tr"), body = make("tbody"), all = make("button", { type: "button", class: "more" });
  let sorted = null, down = true, whole = false;
  columns.forEach(([words, value], i) => {
    const button = make("button", { type: "button" }, words);
    button.addEventListener("click", () => {
      down = sorted === i ? !down : typeof value(cards.find((card) => card.name)) === "number" && i > 0;
      sorted = i;
      drawTable();
    });
    heads.append(make("th", { scope: "col", "aria-sort": "none", class: i > 3 ? "number" : undefined }, button));
  });
  function drawTable() {
    if (!data.named) return;
    const rows = found.filter((card) => card.name);
    if (sorted !== null) {
      const value = columns[sorted][1];
      const compare = (a, b) => typeof a === "string" ? a.localeCompare(b) : (a ?? -Infinity) - (b ?? -Infinity);
      rows.sort((a, b) => (down ? -1 : 1) * compare(value(a), value(b)));
    }
    [...heads.children].forEach((head, i) => head.setAttribute("aria-sort", i !== sorted ? "none" : down ? "descending" : "ascending"));
    const shown = whole ? rows : rows.slice(0, 100);
    body.replaceChildren(...shown.map((card) => make("tr", {}, ...columns.map(([, value, words = String, low], i) => {
      const text = words(value(card));
      return make("td", { class: i > 3 && i !== 11 ? "number" : undefined, title: i === 1 ? text : undefined }, i < 2 ? make("a", { href: `#feature-${card.feature}` }, text) : text, low ? make("span", { class: "quiet" }, low(card)) : null);
    }))));
    all.hidden = shown.length === rows.length;
    all.textContent = `Show all ${count(rows.length)} names`;
  }
  all.addEventListener("click", () => { whole = true; drawTable(); });

  // ---- a link to a card: the search becomes its number, so that it stands alone; going back brings the list back

  let kept = null;
  function follow() {
    const match = /^#feature-(\d+)$/.exec(location.hash);
    if (match) {
      kept ??= [search.value, show.value];
      search.value = `#${match[1]}`;
      show.value = "all";
      opened.add(Number(match[1]));
      cardsTab.click();
      find();
      const button = list.querySelector("button");
      (button ?? search).focus({ preventScroll: true });
      controls.scrollIntoView();
    } else if (location.hash === "" && kept) {
      [search.value, show.value] = kept;
      kept = null;
      find();
    }
  }

  const label = (words, input) => make("label", { for: input.id }, make("span", {}, words), input);
  const controls = make("div", { class: "finder", role: "search", "aria-label": "Find features" }, label("Search", search), label("Show", show), label("Sort by", order));
  const cardsTab = make("button", { type: "button", role: "tab", "aria-selected": "true" }, "Cards");
  const cardsPanel = make("div", { role: "tabpanel", "aria-label": "Cards" }, list, more);
  root.append(controls, status);
  if (data.named) { // page.js turns these into tabs
    const tableTab = make("button", { type: "button", role: "tab", "aria-selected": "false" }, "Table of names");
    const table = make("div", { class: "scroll names", tabindex: "0", role: "region", "aria-label": "Table of names" }, make("table", {}, make("thead", {}, heads), body));
    const note = make("p", { class: "quiet" }, "The names among the features found. A column's head sorts by it; ≥ is the lower end of the 95 % interval.");
    root.append(make("div", { class: "tabs" }, make("div", { class: "tablist", role: "tablist" }, cardsTab, tableTab), cardsPanel, make("div", { role: "tabpanel", "aria-label": "Table of names", hidden: true }, table, all, note)));
  } else root.append(cardsPanel);

  let waiting;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => { kept = null; find(); }, 120); });
  show.addEventListener("change", find);
  order.addEventListener("change", find);
  addEventListener("hashchange", follow);
  root.addEventListener("click", (event) => { // a link to where one is already changes nothing, and yet should lead there
    if (event.target.closest("a")?.hash === location.hash && location.hash) follow();
  });
  find();
  if (location.hash) addEventListener("DOMContentLoaded", follow);
})();
