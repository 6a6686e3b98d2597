"use strict";
// The slider reads numbers that the page holds; nothing is counted here. Text goes in as text, never as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const charts = new Map();

  for (const place of document.querySelectorAll("[data-chart]")) {
    // ast: expressions are interpreted, not compiled, so that the page's policy allows no eval
    const how = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, hover: false, tooltip: false, defaultStyle: false };
    charts.set(place, vegaEmbed(place, data.charts[place.dataset.chart], how).then((made) => made.view));
  }

  const shown = (pair) => {
    const [low, high] = pair.map((x) => x.toLocaleString("en"));
    return low === high ? low : `${low} – ${high}`;
  };

  // all eigenvalues are known: what rounding cannot have carried over tau, and what it may have
  const known = (one, tau) => {
    const beyond = (sign, t) => one.eigenvalues.filter((x) => sign * x > t).length;
    const [low, high] = [-1, 1].map((sign) => [beyond(sign, tau + one.margin), beyond(sign, tau - one.margin)]);
    return [low, [Math.max(0, one.size - low[1] - high[1]), one.size - low[0] - high[0]], high];
  };

  // bounds at tau: those of the grid, of all eigenvalues, or the outer envelope of the two beside it
  const bounds = (one, tau) => {
    const taus = one.grid.thresholds, together = one.grid.together;
    let place = -1;
    while (place + 1 < taus.length && taus[place + 1] <= tau) place += 1;
    if (place < 0) return null;
    const left = together[place];
    if (taus[place] === tau) return { place, three: left };
    if (one.margin !== null) return { place: null, three: known(one, tau) };
    const right = together[place + 1] ?? [[0, 0], [0, one.size], [0, 0]];
    const three = [[right[0][0], left[0][1]], [left[1][0], right[1][1]], [right[2][0], left[2][1]]];
    return { place: null, three };
  };

  const exactly = (one, tau) => {
    const below = one.eigenvalues.filter((x) => x < -tau).length, above = one.eigenvalues.filter((x) => x > tau).length;
    return [below, one.eigenvalues.length - below - above, above];
  };

  const begin = (article) => {
    const index = article.dataset.view, one = data.views[index];
    if (one.grid === null) return;
    const taus = one.grid.thresholds;
    const [range, number, reset, problem] = ["range", "number", "reset", "problem"].map((name) => document.getElementById(`${name}-${index}`));
    const cell = (row, i) => document.getElementById(`${row}-${index}-${i}`);
    const moved = [...article.querySelectorAll("[data-tau]")].map((place) => charts.get(place));

    const show = (tau) => {
      const found = bounds(one, tau);
      if (found === null) {
        problem.textContent = `This record was read from ${taus[0].toPrecision(3)} on: count again for a smaller threshold.`;
        return;
      }
      problem.textContent = "";
      document.getElementById(`tau-${index}`).textContent = tau.toPrecision(4);
      const exact = one.eigenvalues.length ? exactly(one, tau) : null;
      found.three.forEach((pair, i) => {
        cell("together", i).textContent = shown(pair);
        if (cell("alone", i)) cell("alone", i).textContent = found.place === null ? "–" : shown(one.grid.alone[found.place][i]);
        if (cell("exact", i)) cell("exact", i).textContent = exact[i].toLocaleString("en");
      });
      const said = ["negative", "near zero", "positive"].map((name, i) => `${name} ${shown(found.three[i]).replace(" – ", " to ")}`);
      range.setAttribute("aria-valuetext", `tau ${tau.toPrecision(3)}: ${said.join(", ")}`);
      for (const chart of moved) chart.then((view) => view.signal("tau", Math.asinh(tau / taus[0])).runAsync());
    };
    const written = (tau) => Number(tau.toPrecision(4)).toExponential().replace("e+", "e");
    const fill = (tau) => { number.value = written(tau); };
    const slid = () => { const tau = taus[Number(range.value)]; fill(tau); show(tau); };
    const typed = () => {
      const text = number.value.trim(), tau = Number(text);
      if (!(text !== "" && Number.isFinite(tau) && tau > 0)) {
        problem.textContent = "A threshold is a positive number, such as 1e-4.";
        return;
      }
      let nearest = 0;
      taus.forEach((t, i) => { if (Math.abs(Math.log(t / tau)) < Math.abs(Math.log(taus[nearest] / tau))) nearest = i; });
      range.value = String(nearest);
      show(text === written(taus[nearest]) ? taus[nearest] : tau); // its own text means the threshold itself
    };
    const back = () => { const place = taus.indexOf(one.own); range.value = String(place < 0 ? range.defaultValue : place); slid(); };

    range.addEventListener("input", slid);
    number.addEventListener("change", typed);
    reset.addEventListener("click", back);
    slid();
  };

  document.querySelectorAll("[data-view]").forEach(begin);
  Promise.all(charts.values()).then(() => { document.documentElement.dataset.ready = "yes"; });
})();
