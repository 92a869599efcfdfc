"use strict";
// Draws the charts of the report: those of the scan at once, those of a run when it is opened.
(() => {
  const root = document.documentElement;
  const status = document.getElementById("status");
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const figures = new Map(); // by chart: one figure for each combination of choices

  // --- theme ---------------------------------------------------------------------------------

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);
  const property = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  function channels(colour) {
    const hex = /^#([0-9a-f]{6})$/i.exec(colour);
    if (!hex) return null;
    return [0, 2, 4].map((i) => parseInt(hex[1].slice(i, i + 2), 16));
  }

  // Relative luminance and contrast as WCAG 2.1 defines them.
  function luminance(rgb) {
    const [r, g, b] = rgb.map((v) => {
      const s = v / 255;
      return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  // The colour of a series on this background: dark colours are lightened until they stand out.
  function shown(colour) {
    if (colour === "ink") return property("--ink");
    let rgb = channels(colour);
    if (!rgb || !isDark()) return colour;
    const ground = luminance(channels(property("--paper")) || [0, 0, 0]);
    while ((luminance(rgb) + 0.05) / (ground + 0.05) < 4) rgb = rgb.map((v) => v + 0.1 * (255 - v));
    return `rgb(${rgb.map(Math.round).join(",")})`;
  }

  // A copy of part of a figure with the colours of this background.
  function coloured(value, key) {
    if (Array.isArray(value)) {
      return typeof value[0] === "object" && key !== "colorscale"
        ? value.map((v) => coloured(v))
        : value;
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, k)]));
    }
    return key === "color" && typeof value === "string" ? shown(value) : value;
  }

  function template() {
    const axis = {
      gridcolor: property("--grid"),
      linecolor: property("--line"),
      zeroline: false,
      showline: true,
      ticks: "outside",
      tickcolor: property("--line"),
      automargin: true,
      title: { standoff: 8, font: { size: 13 } },
      exponentformat: "none",
    };
    return {
      layout: {
        font: { family: property("--font"), size: 13, color: property("--ink") },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        hoverlabel: { bgcolor: property("--card"), font: { color: property("--ink") } },
        margin: { l: 8, r: 28, t: 24, b: 8 },
        xaxis: axis,
        yaxis: axis,
        modebar: {
          bgcolor: "rgba(0,0,0,0)",
          color: property("--faint"),
          activecolor: property("--ink"),
        },
      },
    };
  }

  // --- drawing -------------------------------------------------------------------------------

  const coarse = matchMedia("(pointer: coarse)").matches;
  const config = {
    responsive: true,
    displaylogo: false,
    // Buttons that only draw; a touch screen has its own gestures.
    displayModeBar: coarse ? false : "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
  };

  // The number of the chosen view; the last choice changes fastest.
  function chosen(chart) {
    return [...chart.querySelectorAll("select.choice")].reduce(
      (index, select) => index * select.options.length + select.selectedIndex, 0);
  }

  const group = (trace) => trace.legendgroup || trace.name;
  const inLegend = (trace) => trace.showlegend !== false && trace.name;

  async function draw(chart) {
    const index = chosen(chart);
    const figure = coloured(figures.get(chart.dataset.chart)[index]);
    const buttons = [...chart.querySelectorAll("button.series")];
    const listed = figure.data.filter(inLegend);
    let changed = false;
    buttons.forEach((button, i) => {
      const on = button.getAttribute("aria-pressed") === "true";
      changed ||= on === (listed[i].visible === false);
      for (const trace of figure.data) if (group(trace) === group(listed[i])) trace.visible = on;
      const style = listed[i].mode.includes("lines") ? listed[i].line : listed[i].marker;
      button.style.setProperty("--series", style.color);
    });
    const layout = {
      ...figure.layout,
      template: template(),
      showlegend: false,
      autosize: true,
      dragmode: coarse ? false : "zoom",
      uirevision: `${index} ${buttons.map((b) => b.getAttribute("aria-pressed"))}`,
    };
    // The given range fits the series that are shown at first.
    const given = [layout.xaxis, layout.yaxis].filter((axis) => axis.type !== "category");
    if (changed) for (const axis of given) delete axis.range;
    await Plotly.react(chart.querySelector(".plot"), figure.data, layout, config);
    // A screen reader reads the label of the chart; the picture would be a list of ticks.
    for (const picture of chart.querySelectorAll("svg.main-svg")) {
      picture.setAttribute("aria-hidden", "true");
    }
    chart.classList.add("drawn");
  }

  // Reads the figures inside an element and draws its charts.
  async function open(element) {
    for (const script of element.querySelectorAll("script.figures")) {
      const found = JSON.parse(script.textContent);
      for (const [name, views] of Object.entries(found)) figures.set(name, views);
      script.remove();
    }
    for (const chart of element.querySelectorAll(".chart:not(.drawn)")) await draw(chart);
  }

  const redraw = () => document.querySelectorAll(".chart.drawn").forEach(draw);

  async function unpacked(element) {
    const bytes = Uint8Array.from(atob(element.textContent), (c) => c.charCodeAt(0));
    element.remove();
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  // --- controls ------------------------------------------------------------------------------

  const toggle = document.getElementById("theme");
  const showTheme = () => toggle.setAttribute("aria-pressed", String(isDark()));

  function remembered() {
    try { return localStorage.getItem("theme"); } catch { return null; } // files may have no store
  }

  function remember(theme) {
    try { localStorage.setItem("theme", theme); } catch { /* the choice then lasts for this visit */ }
  }

  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember(root.dataset.theme);
    showTheme();
    redraw();
  });
  systemDark.addEventListener("change", () => { showTheme(); redraw(); });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.series");
    if (!button) return;
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    draw(button.closest(".chart"));
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("select.choice")) draw(event.target.closest(".chart"));
  });
  // The details of a run, from a script next to the page where the page does not hold them. A
  // script works where the page is a file, too; a request would not.
  window.showDetails = (anchor, html) => {
    document.getElementById(anchor).insertAdjacentHTML("beforeend", html);
  };
  async function openRun(run) {
    const source = run.dataset.source;
    if (source) {
      delete run.dataset.source;
      const loaded = await new Promise((resolve) => {
        const script = document.createElement("script");
        script.onload = () => resolve(true);
        script.onerror = () => resolve(false);
        script.src = source;
        document.head.append(script);
      });
      if (!loaded) {
        run.dataset.source = source; // another try when it is opened again
        run.querySelector("p.missing")?.remove();
        const line = document.createElement("p");
        line.className = "missing";
        line.textContent = `The details are in the file ${source} next to the original page.`;
        run.append(line);
        return;
      }
      run.querySelector("p.missing")?.remove();
    }
    if (window.Plotly) await open(run);
  }
  for (const run of document.querySelectorAll("details.run")) {
    run.addEventListener("toggle", () => { if (run.open) openRun(run); });
  }
  // A link to a run opens it.
  function follow() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) target.open = true;
  }
  addEventListener("hashchange", follow);

  async function start() {
    if (remembered()) root.dataset.theme = remembered();
    showTheme();
    follow();
    status.textContent = "Drawing the charts …";
    try {
      const script = document.createElement("script");
      script.textContent = await unpacked(document.getElementById("plotly"));
      document.head.append(script);
      for (const section of document.querySelectorAll("section:not(#runs)")) await open(section);
      for (const run of document.querySelectorAll("details.run[open]")) await openRun(run);
      status.textContent = "";
    } catch (error) {
      status.textContent = `No charts here (${error}); text and tables are complete.`;
    }
    root.dataset.charts = status.textContent ? "failed" : "drawn";
  }
  start();
})();
