// Looks rows up. Texts of rows are untrusted: they become text nodes and attribute values, never markup.
"use strict";
(() => {
  const explorer = document.getElementById("explorer");
  if (!explorer) return;
  const rows = JSON.parse(document.getElementById("rows").textContent);
  const byIndex = new Map(rows.map((row) => [row.index, row]));
  const [query, filter, sort, reverse, count, results, more, story] =
    ["query", "filter", "sort", "reverse", "count", "results", "more", "story"].map((id) => document.getElementById(id));
  const PAGE = 50;
  const EXCERPT = 140;
  // What is sorted by, and whether upwards.
  const ORDERS = {
    rank: [(row) => row.rank, true],
    score: [(row) => row.score, false],
    gain: [(row) => row.gain, false],
    conflict: [(row) => row.conflict, false],
    tokens: [(row) => row.tokens, true],
  };
  const searched = new Map();
  let found = [];
  let limit = PAGE;
  let current = null;

  const make = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children.filter((child) => child !== null));
    return element;
  };
  const isolated = (text) => make("bdi", {}, text);

  const number = (value) => {
    if (value === null) return "–";
    const size = Math.abs(value);
    const shown = size >= 1000 ? Math.round(value).toLocaleString("en")
      : size > 0 && size < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
    return shown.replace(/-/g, "−");
  };
  const percent = (share) => `${(100 * share).toFixed(0)}%`;
  const excerpt = (row) => {
    const text = (row.response.trim() || row.prompt).slice(0, 2 * EXCERPT).replace(/\s+/g, " ").trim();
    return text.length > EXCERPT ? `${text.slice(0, EXCERPT - 1)}…` : text;
  };
  const address = (row) => `#row-${row.index}`;

  // The list ------------------------------------------------------------------------------------------------------

  const haystack = (row) => {
    if (!searched.has(row)) {
      searched.set(row, [row.id, row.source, row.prompt, row.response].join("\n").toLowerCase());
    }
    return searched.get(row);
  };
  const wanted = (row, words) =>
    (filter.value === "all" || (row.rank !== null) === (filter.value === "picked")) &&
    words.every((word) => haystack(row).includes(word));

  // Rows without the quantity come last, whichever way the others go.
  const compare = ([quantity, upwards], flipped) => (one, other) => {
    const [a, b] = [quantity(one), quantity(other)];
    if (a === null || b === null) return (a === null) - (b === null) || one.index - other.index;
    return (upwards === flipped ? b - a : a - b) || one.pool - other.pool || one.index - other.index;
  };

  const search = () => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    const flipped = reverse.getAttribute("aria-pressed") === "true";
    found = rows.filter((row) => wanted(row, words)).sort(compare(ORDERS[sort.value], flipped));
    limit = PAGE;
    list();
  };

  const chip = (row) =>
    row.rank === null ? make("span", { class: "chip" }, row.pool === null ? "left out" : "not picked")
      : make("span", { class: "chip picked" }, `pick ${row.rank + 1}`);

  const item = (row) => {
    const quantity = sort.value === "rank" ? "score" : sort.value;
    const measure = row[quantity] === null ? "" : ` · ${quantity} ${number(row[quantity])}`;
    const link = make("a", { href: address(row) },
      make("span", { class: "id" }, isolated(row.id)),
      make("span", { class: "meta" }, chip(row), " ", isolated(row.source), measure),
      make("span", { class: "excerpt", dir: "auto" }, excerpt(row)));
    if (row === current) link.setAttribute("aria-current", "true");
    return make("li", {}, link);
  };

  const list = () => {
    results.replaceChildren(...found.slice(0, limit).map(item));
    more.hidden = found.length <= limit;
    const shown = Math.min(limit, found.length).toLocaleString("en");
    count.textContent = found.length === 0 ? "No row matches."
      : found.length === 1 ? "1 row." : `Showing ${shown} of ${found.length.toLocaleString("en")} rows.`;
  };

  const mark = () => {
    for (const link of results.querySelectorAll("a")) {
      if (current && link.getAttribute("href") === address(current)) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };

  // The story -----------------------------------------------------------------------------------------------------

  const verdict = (row) => {
    if (row.pool === null) return ["Left out before the choice, so it belongs to no candidate pool."];
    const picked = row.rank !== null;
    const sentences = [picked ? `Kept: pick ${row.rank + 1} of candidate pool ${row.pool}.`
      : `Not kept, from candidate pool ${row.pool}.`];
    if (row.gain === null || row.base === null) return [...sentences, "No gradient was computed for it."];
    sentences.push(picked
      ? `At its pick it added ${number(row.gain)} nats, of ${number(row.base)} that it would bring alone.`
      : `After all picks it would still add ${number(row.gain)} nats, of ${number(row.base)} that it would bring alone.`);
    if (row.base > row.gain) {
      const told = percent((row.base - row.gain) / row.base);
      sentences.push(picked ? `Earlier picks had told ${told} of it.` : `The picks have told ${told} of it already.`);
    }
    if (row.conflict > 0) {
      sentences.push(`Its gradient points against the mean of the picks (conflict ${number(row.conflict)}).`);
    }
    return sentences;
  };

  const measures = (row) => {
    const epsilon = row.gain === null || row.base === null ? null : row.gain - row.base;
    const lines = [
      ["Score", number(row.score), "gain − penalty × conflict"],
      ["Gain", number(row.gain), "nats that it adds to the picks"],
      ["Base", number(row.base), "nats that it brings alone"],
      ["Epsilon", number(epsilon), "gain − base: what picks take away"],
      ["Conflict", number(row.conflict), "0 none, 1 opposite to the picks' mean"],
      ["Gradient norm", number(row.norm), "before any scaling"],
    ];
    const shown = row.gain === null ? [] : lines;
    shown.unshift(
      ["Rank", row.rank === null ? "–" : String(row.rank + 1), "its number among the picks of its pool"],
      ["Trained tokens", row.tokens.toLocaleString("en"), "tokens of the answer"]);
    return make("dl", { class: "measures" }, ...shown.map(([name, value, meaning]) =>
      make("div", {}, make("dt", {}, name), make("dd", {}, value, make("small", {}, meaning)))));
  };

  const side = (heading, row) => make("div", {}, make("h4", {}, ...heading),
    make("h5", {}, "Prompt"), make("div", { class: "text", dir: "auto" }, row.prompt || "(empty)"),
    make("h5", {}, "Response"), make("div", { class: "text", dir: "auto" }, row.response || "(empty)"));

  const otherSide = (neighbour, relation) => {
    const heading = [`${relation} `, isolated(neighbour.id), `, cosine ${number(neighbour.cosine)}`];
    const row = byIndex.get(neighbour.row);
    if (!row) return make("div", {}, make("h4", {}, ...heading), make("p", {}, "Its text is not in this page."));
    const box = side(heading, row);
    box.append(make("p", {}, make("a", { href: address(row) }, "Why was ", isolated(row.id), " kept?")));
    return box;
  };

  const comparison = (row) => {
    const choices = [
      ...row.overlaps.map((neighbour) => [neighbour, "Overlapping pick"]),
      ...row.opposes.map((neighbour) => [neighbour, "Opposed pick"]),
    ];
    const own = side(["This row"], row);
    if (choices.length === 0) return [make("div", { class: "sides" }, own)];
    const sides = make("div", { class: "sides" }, own);
    const buttons = choices.map(([neighbour, relation]) => {
      const button = make("button", { type: "button" }, isolated(neighbour.id), ` ${number(neighbour.cosine)}`);
      button.addEventListener("click", () => {
        for (const one of buttons) one.setAttribute("aria-pressed", String(one === button));
        sides.replaceChildren(own, otherSide(neighbour, relation));
      });
      return button;
    });
    const group = (name, part) => part.length === 0 ? null
      : make("div", { class: "choices", role: "group", "aria-label": name }, make("span", {}, `${name}:`), ...part);
    buttons[0].click();
    return [
      make("h4", {}, "Beside a pick"),
      make("p", { class: "lead" }, "Cosine of the two gradients: 1 the same direction, 0 unrelated, −1 opposite."),
      group("Overlaps with", buttons.slice(0, row.overlaps.length)),
      group("Opposes", buttons.slice(row.overlaps.length)),
      sides,
    ].filter((part) => part !== null);
  };

  const tell = (row) => {
    const heading = make("h3", { id: "story-heading", tabindex: "-1" }, isolated(row.id), " ", chip(row));
    const back = make("button", { type: "button" }, "Back to the list");
    back.addEventListener("click", () => (results.querySelector("[aria-current]") || query).focus());
    story.classList.remove("nothing");
    story.replaceChildren(heading,
      make("p", { class: "lead" }, isolated(row.source), " · ", isolated(row.location)),
      make("p", {}, verdict(row).join(" ")), measures(row), ...comparison(row), make("p", {}, back));
    const top = heading.getBoundingClientRect().top;
    heading.focus({ preventScroll: true });
    if (top < 60 || top > 0.6 * window.innerHeight) story.scrollIntoView();
  };

  const open = () => {
    const named = /^#row-(\d+)$/.exec(window.location.hash);
    const row = named ? byIndex.get(Number(named[1])) : undefined;
    if (!row) return;
    current = row;
    mark();
    tell(row);
  };

  // Wiring --------------------------------------------------------------------------------------------------------

  for (const name of document.querySelectorAll("[data-row]")) {
    const link = make("a", { href: `#row-${name.dataset.row}` });
    link.append(...name.childNodes);
    name.append(link);
  }
  query.addEventListener("input", search);
  filter.addEventListener("change", search);
  sort.addEventListener("change", search);
  reverse.addEventListener("click", () => {
    reverse.setAttribute("aria-pressed", String(reverse.getAttribute("aria-pressed") !== "true"));
    search();
  });
  more.addEventListener("click", () => {
    const next = limit;
    limit += PAGE;
    list();
    results.children[next].firstChild.focus();
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#row-"]');
    if (link && link.hash === window.location.hash) open(); // the same row again: no hashchange follows
  });
  window.addEventListener("hashchange", open);
  story.classList.add("nothing");
  document.getElementById("no-script").hidden = true;
  explorer.hidden = false;
  search();
  open();
})();
