"""How our pages look: one style sheet, light and dark by the reader's own setting, also in print."""

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fff; --raised: #f6f7f9; --ink: #1b1f24; --muted: #5f6b7a; --rule: #dfe3e8; --warn: #8a5300;
  --warn-ground: #fff6e5;
  --s0: #1f6fc4; --s1: #c04a15; --s2: #157a4e; --s3: #7f4ab5; --s4: #8f6a10; --s5: #b92f6c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171b; --raised: #1d2127; --ink: #e4e7eb; --muted: #97a3b3; --rule: #333a43; --warn: #f0c274;
    --warn-ground: #2d2415;
    --s0: #6aaef5; --s1: #f38d5c; --s2: #57c795; --s3: #bf93ec; --s4: #dcb95e; --s5: #ee7fae;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1180px; padding: 36px 28px 64px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { margin: 0 0 4px; font-size: 27px; line-height: 1.25; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { margin: 46px 0 10px; padding-bottom: 6px; font-size: 19px; border-bottom: 1px solid var(--rule); }
h3 { margin: 26px 0 8px; font-size: 15.5px; overflow-wrap: anywhere; }
h4 { margin: 0 0 2px; font-size: 13.5px; font-weight: 600; overflow-wrap: anywhere; }
h4 small { margin-left: 4px; font-weight: 400; color: var(--muted); }
p { margin: 8px 0; max-width: 78ch; }
.muted { color: var(--muted); }
a { color: var(--s0); }
code { font: 0.92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
nav { margin: 14px 0 0; font-size: 14px; }
nav a { margin-right: 18px; color: var(--s0); text-decoration: none; }
nav a:hover { text-decoration: underline; }
.warning {
  margin: 16px 0; padding: 10px 14px; max-width: 82ch; border-left: 4px solid var(--warn);
  background: var(--warn-ground);
}

.scroll { overflow-x: auto; }
table { margin: 10px 0 14px; border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
td:first-child { white-space: nowrap; }
th { font-weight: 600; color: var(--muted); white-space: nowrap; }
table.grid th { white-space: normal; vertical-align: bottom; }
td.number, th.number { padding-left: 10px; text-align: right; white-space: nowrap; }
tr.lesser td { color: var(--muted); }
tr.lesser td:first-child { padding-left: 16px; }
dl.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 14px 22px;
  margin: 20px 0 6px;
}
dl.facts dt { font-size: 12.5px; color: var(--muted); }
dl.facts dd { margin: 0; font-size: 16px; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }

.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 22px 26px; }
figure { margin: 0; }
figcaption { margin-top: 4px; font-size: 12.5px; overflow-wrap: anywhere; }
.chart svg { display: block; width: 100%; height: auto; font-size: 12.5px; }
.chart text { fill: var(--muted); }
.chart .grid { stroke: var(--rule); stroke-width: 1; }
.chart .axis { stroke: var(--muted); stroke-width: 1; }
.chart polyline { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.chart .band { fill: currentColor; opacity: 0.16; }
.chart .dot { fill: currentColor; }
.chart line.event { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 2 3; }
.chart circle.event { fill: var(--ink); }
.chart text.event { fill: var(--ground); font-size: 10px; font-weight: 700; }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); }
.s3 { color: var(--s3); } .s4 { color: var(--s4); } .s5 { color: var(--s5); }
.chart rect.bar { fill: currentColor; }
.chart rect.field { fill: none; stroke: var(--rule); }
.chart text.mark { font-size: 12px; fill: var(--ink); }
.density svg { max-width: 264px; }
.vectors svg { max-width: 420px; }
.vectors line { stroke: var(--rule); stroke-width: 1; }
.vectors circle, .vectors rect { fill: currentColor; }
.ends { display: block; }
.legend { max-width: none; font-size: 13px; }
.key { display: inline-block; margin-right: 18px; }
.key i {
  display: inline-block; width: 16px; height: 3px; margin-right: 6px; vertical-align: 4px;
  border-radius: 2px; background: currentColor;
}
.key b {
  display: inline-block; width: 16px; height: 16px; margin-right: 5px; border-radius: 50%;
  background: var(--ink); color: var(--ground);
  font-size: 10px; line-height: 16px; text-align: center;
}

.key.s0, .key.s1, .key.s2, .key.s4 { color: var(--ink); }
.key i.s0 { color: var(--s0); } .key i.s1 { color: var(--s1); }
.key i.s2 { color: var(--s2); } .key i.s4 { color: var(--s4); }
svg.spark { display: block; width: 150px; height: 25px; overflow: visible; }
.spark path { fill: currentColor; }
.spark .axis { stroke: var(--muted); stroke-width: 0.7; }
svg.spark-axis { display: block; width: 150px; height: 14px; overflow: visible; font-size: 10.5px; font-weight: 400; }
.spark-axis text { fill: var(--muted); }
.stack { display: flex; min-width: 150px; height: 11px; margin-top: 6px; border-radius: 3px; overflow: hidden; }
.stack i { flex: 0 1 0; min-width: 1px; background: currentColor; }
.bar-track { display: inline-block; width: 110px; height: 9px; border-radius: 2px; background: var(--rule); }
.bar-track i { display: block; height: 100%; min-width: 1px; border-radius: 2px; background: currentColor; }
.ceiling { white-space: nowrap; }
.ceiling .bar-track { width: 64px; margin-right: 8px; }
.good { color: var(--s2); font-weight: 600; }
.wide { max-width: none; }
.warning h3 { margin: 0 0 4px; }
.warning ul { margin: 0; padding-left: 20px; }
.warning li { margin: 4px 0; overflow-wrap: anywhere; }
details { margin: 12px 0; padding: 10px 14px; border: 1px solid var(--rule); border-radius: 8px; }
summary { cursor: pointer; }
summary .stack { display: inline-flex; width: 240px; margin: 0 14px; }
summary .muted { font-size: 13.5px; }
summary b { display: inline-block; min-width: 200px; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(370px, 1fr)); gap: 10px 20px; font-size: 14px; }
table.reasons td:first-child { white-space: normal; min-width: 190px; max-width: 260px; }
table.reasons small { font-size: 12.5px; }
ul.examples { margin: 0; min-width: 460px; font-size: 13px; }
ul.examples li { margin: 2px 0; overflow-wrap: anywhere; }
table.licences td { overflow-wrap: anywhere; }
table.licences td:first-child { max-width: 520px; white-space: normal; }
.part { display: inline-block; margin-right: 18px; overflow-wrap: anywhere; }
.part b { font-weight: 600; }
.range { display: inline-block; min-width: 78px; margin-left: 4px; text-align: left; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, 176px); gap: 16px 13px; margin: 8px 0 16px; align-items: start; }
.thumb figcaption { width: 176px; line-height: 1.35; }

.card {
  margin: 22px 0; padding: 16px 18px; border: 1px solid var(--rule); border-radius: 10px;
  background: var(--raised); break-inside: avoid;
}
.card h3 { margin: 0 0 10px; }
.card h3 small { font-weight: 400; color: var(--muted); }
.pair { display: flex; flex-wrap: wrap; gap: 18px; align-items: flex-start; }
.half { flex: 1 1 340px; min-width: 280px; font-size: 14px; }
.half ul, .words ul, .words ol { margin: 6px 0 12px; padding-left: 20px; }
.half li, .words li { margin: 3px 0; overflow-wrap: anywhere; }
ul.plain { padding-left: 0; list-style: none; }
.maps { display: flex; flex-wrap: wrap; gap: 10px 12px; }
.maps figure { width: 170px; }
.heads { gap: 8px 12px; }
.heads figure { width: 132px; }
.asked { width: 300px; }
.words { flex: 1 1 280px; min-width: 240px; font-size: 14px; }
.words h4 { margin-top: 10px; }
.words h4:first-child { margin-top: 0; }
.picture { position: relative; overflow: hidden; border-radius: 5px; background: #000; line-height: 0; }
.picture img { display: block; width: 100%; height: 100%; }
.picture .grey { filter: grayscale(1); }
.picture .heat { position: absolute; inset: 0; }
.picture svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.picture rect { fill: none; vector-effect: non-scaling-stroke; }
.picture .halo { stroke: #000; stroke-opacity: 0.6; }
.picture .edge { stroke: currentColor; }
.picture .dashed { stroke-dasharray: 7 4; }
.p0 { color: #ffd23f; } .p1 { color: #4cc9f0; } .p2 { color: #ff6b6b; }
.p3 { color: #7ae582; } .p4 { color: #d59bf6; } .p5 { color: #ff9f40; }
.p6 { color: #f7aef8; } .p7 { color: #b8f2e6; } .p8 { color: #c5a880; } .p9 { color: #ffffff; }
mark { padding: 0 1px; background: none; border-bottom: 3px solid; }
mark span { color: var(--ink); }
.swatch {
  display: inline-block; width: 11px; height: 11px; margin-right: 6px; border: 1px solid #0008;
  border-radius: 3px; background: currentColor;
}
.yes { color: var(--s2); font-weight: 600; }
.no { color: var(--s1); font-weight: 600; }
footer {
  margin-top: 54px; padding-top: 10px; border-top: 1px solid var(--rule); font-size: 13px;
  color: var(--muted);
}
@media print { body { max-width: none; padding: 0; } nav { display: none; } }
"""
