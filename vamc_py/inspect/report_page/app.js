"use strict";

/* Reads the report out of the page and draws it, section by section. */

function markCurrentSection() {
  const links = new Map([...document.querySelectorAll(".sections a")].map((link) => [link.hash.slice(1), link]));
  const sections = [...document.querySelectorAll("main > section")];
  let planned = false;
  const update = () => {
    planned = false;
    const line = window.innerHeight * 0.3;
    const atEnd = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 2;
    const passed = sections.filter((section) => section.getBoundingClientRect().top <= line);
    const current = atEnd ? sections.at(-1) : (passed.at(-1) ?? sections[0]);
    for (const [id, link] of links) {
      if (id === current.id && !link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "true");
        keepInView(link);
      } else if (id !== current.id) link.removeAttribute("aria-current");
    }
  };
  const plan = () => {
    if (!planned) requestAnimationFrame(update);
    planned = true;
  };
  window.addEventListener("scroll", plan, { passive: true });
  window.addEventListener("resize", plan);
  update();
}

/* Scrolls the bar of sections sideways, never the page. */
function keepInView(link) {
  const bar = link.parentElement;
  bar.scrollLeft = link.offsetLeft - (bar.clientWidth - link.offsetWidth) / 2;
}

/* The address names what was opened last, "#step=merge-linear" or "#node=lv2", so that it can be passed on. */
function rememberPlace(kind, name) {
  history.replaceState(null, "", `#${new URLSearchParams({ [kind]: name })}`);
}

function openPlace(steps, view) {
  const place = new URLSearchParams(location.hash.slice(1));
  const step = steps.get(place.get("step"));
  if (step !== undefined) {
    if (step.getAttribute("aria-expanded") === "false") step.click();
    step.scrollIntoView();
  }
  const entry = view.graph.named.get(place.get("node"));
  if (entry !== undefined) {
    byId("graph").scrollIntoView();
    view.choose(entry);
  }
}

function start() {
  const report = JSON.parse(byId("report").textContent);
  renderOverview(report);
  const steps = renderPipeline(report);
  const view = renderGraph(report);
  renderMemory(report);
  renderRooflines(report);
  renderConfiguration(report);
  markCurrentSection();
  openPlace(steps, view);
  window.addEventListener("hashchange", () => openPlace(steps, view));
}

start();
