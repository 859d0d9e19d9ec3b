// Lists the entries that have the words of `?q=`, the best first. `ENTRIES` is written by
// `_extensions/section_search.py`, `Stemmer` comes with Sphinx.
"use strict";

const MOST = 30;
const SEPARATOR = "[^\\p{L}\\p{N}]+";

const stemmer = new Stemmer();
const stems = new Map();

function stem(word) {
  if (!stems.has(word)) stems.set(word, stemmer.stemWord(word));
  return stems.get(word);
}

function wordsOf(text) {
  return text.toLowerCase().split(new RegExp(SEPARATOR, "u")).filter(Boolean);
}

// How well a word of a page matches a wanted one: in any form, or by its beginning.
function closeness(word, wanted) {
  if (stem(word) === stem(wanted)) return 1;
  return wanted.length > 2 && !/^\d+$/.test(wanted) && word.startsWith(wanted) ? 0.5 : 0;
}

// How many of the wanted words an entry has, and how important they are in it.
function rate(entry, wanted) {
  const [page, title, text] = [entry.page, entry.title, entry.text].map(wordsOf);
  const keys = entry.keys.map(wordsOf);
  let [found, score] = [0, 0];
  for (const each of wanted) {
    const best = (words) => words.reduce((sum, word) => Math.max(sum, closeness(word, each)), 0);
    const times = text.reduce((sum, word) => sum + closeness(word, each), 0);
    const weight =
      best(title) * (1 + 1 / title.length) +
      best(keys.flat()) * 1.5 +
      best(page) * 0.5 +
      times / (times + 1 + text.length / 200);
    if (weight) found += 1;
    score += weight;
  }
  const phrase = wanted.join(" ");
  // The key `pool.grace_period` matches "grace period", and "429 now and then" does not match 429.
  if (keys.some((words) => ` ${words.join(" ")}`.endsWith(` ${phrase}`))) score += 2;
  const isThere = (words) => ` ${words.join(" ")} `.includes(` ${phrase} `);
  if (wanted.length > 1) score += 2 * isThere(title) + isThere(text);
  return { entry, found, score };
}

function search(wanted) {
  const rated = ENTRIES.map((entry) => rate(entry, wanted)).filter(({ found }) => found);
  const most = Math.max(...rated.map(({ found }) => found));
  return rated
    .filter(({ found }) => found === most)
    .sort((one, other) => other.score - one.score)
    .map(({ entry }) => entry);
}

// A part of the text around the first place with the words.
function excerpt(text, wanted) {
  const escaped = wanted.map((word) => stem(word).replace(/i$/, "[iy]"));
  const before = "(?<![\\p{L}\\p{N}])";
  const phrase = new RegExp(before + escaped.join(`\\p{L}*${SEPARATOR}`), "iu");
  const any = new RegExp(`(${before}(?:${escaped.join("|")})[\\p{L}\\p{N}]*)`, "giu");
  const at = Math.max(text.search(phrase), 0) || Math.max(text.search(any), 0);
  const start = at > 80 ? text.indexOf(" ", at - 80) + 1 : 0;
  const end = text.length > start + 240 ? text.lastIndexOf(" ", start + 240) : text.length;
  const shown = document.createElement("p");
  if (start > 0) shown.append("… ");
  text.slice(start, end).split(any).forEach((part, place) => {
    if (place % 2) shown.appendChild(document.createElement("mark")).textContent = part;
    else shown.append(part);
  });
  if (end < text.length) shown.append(" …");
  return shown;
}

function show(entry, wanted) {
  const item = document.createElement("li");
  const link = item.appendChild(document.createElement("a"));
  link.href = entry.address;
  link.textContent = entry.title === entry.page ? entry.page : `${entry.page} › ${entry.title}`;
  item.appendChild(excerpt(entry.text, wanted));
  return item;
}

function run() {
  const query = new URLSearchParams(window.location.search).get("q") ?? "";
  document.querySelectorAll('input[name="q"]').forEach((input) => (input.value = query));
  const wanted = wordsOf(query);
  if (!wanted.length) return;
  const results = search(wanted);
  const [status, list] = ["search-status", "search-list"].map((id) => document.getElementById(id));
  status.textContent = results.length
    ? `${results.length} ${results.length === 1 ? "place" : "places"}` +
      (results.length > MOST ? `, the best ${MOST} of them:` : ":")
    : "Nothing has these words.";
  list.append(...results.slice(0, MOST).map((entry) => show(entry, wanted)));
  // Sphinx marks these words on the page that is opened next.
  localStorage.setItem("sphinx_highlight_terms", wanted.join(" "));
}

document.addEventListener("DOMContentLoaded", run);
