// The dashboard's own script: live parts, copying, charts. Pages work without it, but they don't move.
"use strict";

(() => {
  const LOGIN = "/ui/login?ended";

  // ------------------------------------------------------------------------------------------------------ live parts

  const open = new Map();

  // What is focused or selected inside a part would be lost if the part were replaced. It is replaced a little later.
  function busy(part) {
    const selection = document.getSelection();
    const selected = selection && !selection.isCollapsed && part.contains(selection.anchorNode);
    const active = document.activeElement;
    return selected || (active && active !== part && part.contains(active) && active.tagName !== "DIV");
  }

  function replace(part, html) {
    if (busy(part)) {
      part.waiting = html;
      return;
    }
    part.waiting = undefined;
    const page = new DOMParser().parseFromString(html, "text/html");
    const opened = [...part.querySelectorAll("details")].map((each) => each.open);
    const scrolled = [...part.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
    part.replaceChildren(...page.body.childNodes);
    [...part.querySelectorAll("details")].forEach((each, index) => { each.open = opened[index] || false; });
    [...part.querySelectorAll(".scroll")].forEach((each, index) => { each.scrollLeft = scrolled[index] || 0; });
  }

  function listen(part) {
    const stream = new EventSource(part.dataset.live);
    open.set(part, stream);
    stream.onopen = () => part.classList.remove("stale");
    stream.onmessage = (event) => replace(part, event.data);
    stream.onerror = () => part.classList.add("stale");
    stream.addEventListener("ended", () => { location.href = LOGIN; });
  }

  function follow() {
    for (const part of document.querySelectorAll("[data-live]")) {
      if (!document.hidden && !open.has(part)) listen(part);
    }
  }

  // A browser opens only six connections to a server that speaks HTTP/1.1, so hidden tabs give theirs back.
  function pause() {
    for (const [part, stream] of open) {
      stream.close();
      open.delete(part);
    }
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? pause() : follow()));
  window.addEventListener("pagehide", pause);
  window.addEventListener("pageshow", follow);
  setInterval(() => {
    for (const part of open.keys()) {
      if (part.waiting !== undefined) replace(part, part.waiting);
    }
  }, 1000);

  // --------------------------------------------------------------------------------------------------------- copying

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      document.getSelection().selectAllChildren(source); // without TLS, browsers let nobody write to the clipboard
      button.textContent = "Selected: press Ctrl+C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });

  // A second click on the button of a form that is being sent does nothing.
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    if (event.target.sent) event.preventDefault();
    event.target.sent = true;
    setTimeout(() => { event.target.sent = false; }, 10000);
  });

  // ---------------------------------------------------------------------------------------------------------- charts

  function chart(place) {
    const rows = JSON.parse(place.dataset.chart);
    if (!rows.length || typeof uPlot === "undefined") return;
    const colour = getComputedStyle(document.documentElement);
    const [ink, accent, line] = ["--ink", "--accent", "--line"].map((name) => colour.getPropertyValue(name).trim());
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    const times = rows.map(([day]) => Date.parse(`${day}T00:00:00Z`) / 1000);
    const options = {
      width: place.clientWidth, height: 220, legend: { show: false }, cursor: { show: false },
      scales: { x: { time: true }, y: { range: (_, __, most) => [0, most || 1] } },
      tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
      axes: [axis, { ...axis, size: 64, values: (_, ticks) => ticks.map((each) => `$${each}`) }],
      series: [{}, { stroke: accent, fill: accent, paths: uPlot.paths.bars({ size: [0.7, 48] }), points: { show: false } }],
    };
    const drawn = new uPlot(options, [times, rows.map(([, amount]) => amount)], place);
    window.addEventListener("resize", () => drawn.setSize({ width: place.clientWidth, height: 220 }));
  }

  function begin() {
    follow();
    document.querySelectorAll("[data-chart]").forEach(chart);
  }

  begin();
})();
