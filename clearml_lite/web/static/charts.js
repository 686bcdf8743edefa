// Draws the figures that #charts names, each when it comes into view, in the colours of the page.
"use strict";

const place = document.getElementById("charts");
const dark = matchMedia("(prefers-color-scheme: dark)");

function say(words, where = place) {
  const note = document.createElement("p");
  note.className = "note";
  note.textContent = words;
  where.append(note);
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const line = style.getPropertyValue("--line").trim();
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: style.getPropertyValue("--ink").trim() },
    xaxis: axis,
    yaxis: axis,
  };
}

function merged(base, own) {
  const result = { ...base, ...own };
  for (const name of ["font", "xaxis", "yaxis"]) {
    result[name] = { ...base[name], ...(own[name] || {}) };
  }
  return result;
}

function draw(box, figure) {
  const layout = merged({ margin: { t: 30, r: 20, b: 45, l: 60 }, ...colours() }, figure.layout);
  delete layout.width;
  delete layout.height;
  delete layout.title;
  return Plotly.react(box, figure.data, layout, { responsive: true, displaylogo: false }).then(
    () => { box.dataset.drawn = "yes"; },
    (error) => { box.dataset.drawn = "no"; say(`This figure cannot be drawn: ${error.message || error}`, box); },
  );
}

function show(figures) {
  const boxes = new Map();
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        seen.unobserve(entry.target);
        draw(entry.target, boxes.get(entry.target));
      }
    }
  }, { rootMargin: "400px" });
  for (const figure of figures) {
    const section = document.createElement("section");
    const title = document.createElement("h2");
    title.textContent = figure.title + (figure.iter === undefined || figure.iter === null ? "" : ` (iteration ${figure.iter})`);
    section.append(title);
    place.append(section);
    if (figure.problem) {
      say(figure.problem, section);
      continue;
    }
    const box = document.createElement("div");
    box.className = "chart";
    section.append(box);
    boxes.set(box, figure);
    seen.observe(box);
  }
  dark.addEventListener("change", () => {
    for (const [box, figure] of boxes) {
      if (box.dataset.drawn) draw(box, figure);
    }
  });
}

async function start() {
  const answer = await fetch(place.dataset.source);
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  const content = await answer.json();
  if (!content.figures.length) say(place.dataset.nothing);
  show(content.figures);
  if (content.more) say("There are more plots than fit here; the SDK has all of them.");
  place.dataset.ready = "yes";
}

start().catch((error) => say(`The figures could not be loaded (${error.message}). Load the page again.`));
