"""The page's style sheet: light and dark by the reader's setting, narrow and wide screens, paper."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark;
  --back: #ffffff; --panel: #f5f6f8; --ink: #1b1f24; --faint: #59626c; --rule: #d5dae0; --link: #0b5cad;
  --good: #12693a; --good-back: #e3f4e9; --bad: #a31621; --bad-back: #fde8e8; --warn: #7a4d00; --warn-back: #fff3d6;
  --s0: #0b62a8; --s1: #b9480a; --s2: #00785a; --s3: #9a3f86; --s4: #7a6400; --s5: #4a5560; --upper: #838c96;
  --cell: 11, 98, 168; }
@media (prefers-color-scheme: dark) { :root {
  --back: #14171b; --panel: #1d2126; --ink: #e6e9ed; --faint: #a2abb5; --rule: #39414a; --link: #7db7f0;
  --good: #7fd6a2; --good-back: #14301f; --bad: #ff9a9a; --bad-back: #3d1719; --warn: #f0c56b; --warn-back: #362a10;
  --s0: #6fb3f2; --s1: #f29a5c; --s2: #4fcfa5; --s3: #e08fcf; --s4: #d9c24e; --s5: #aeb8c2; --upper: #97a1ab;
  --cell: 111, 179, 242; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--back); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
header, main, footer { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
footer { color: var(--faint); font-size: 13px; border-top: 1px solid var(--rule); padding: 14px 20px 40px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 1.3rem; margin: 44px 0 10px; padding-top: 14px; border-top: 2px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 28px 0 8px; }
p { margin: 8px 0; max-width: 75ch; }
a { color: var(--link); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin: 14px 0 0; }
.faint { color: var(--faint); }
.badge { display: inline-block; padding: 1px 9px; border-radius: 10px; font-size: 13px; font-weight: 600;
  margin-right: 6px; background: var(--panel); color: var(--faint); vertical-align: middle; }
.badge.good { background: var(--good-back); color: var(--good); }
.badge.bad { background: var(--bad-back); color: var(--bad); }
.badge.warn { background: var(--warn-back); color: var(--warn); }
.notice { border-left: 5px solid var(--warn); background: var(--warn-back); padding: 8px 14px; margin: 12px 0; }
.notice.bad { border-color: var(--bad); background: var(--bad-back); }
.notice strong.title { display: block; color: var(--warn); }
.notice.bad strong.title { color: var(--bad); font-size: 1.15rem; }
.claim { border-left: 5px solid var(--s0); background: var(--panel); padding: 8px 14px; margin: 12px 0; }
.claim.bad { border-color: var(--bad); }
.claim p { max-width: none; }
.claim ul { margin: 8px 0; padding-left: 20px; }
.tabular { margin: 14px 0; }
.tabular > figcaption { color: var(--faint); font-weight: 400; }
.scroll { overflow-x: auto; max-width: 100%; }
.scroll:focus-visible, summary:focus-visible, a:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: 14.5px; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: 4px 9px; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
thead th { border-bottom: 2px solid var(--rule); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; }
th:first-child { padding-left: 2px; }
th.words, td.words { text-align: left; white-space: normal; min-width: 9ch; }
.strong { font-weight: 700; }
.confusion td { text-align: center; padding: 4px 8px; min-width: 34px; }
.confusion td.zero { color: var(--faint); }
.confusion td.right { outline: 1.5px solid var(--s2); outline-offset: -2px; }
dl { margin: 10px 0; display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 0 28px; }
dl div { display: flex; gap: 10px; border-bottom: 1px solid var(--rule); padding: 3px 0; }
dt { color: var(--faint); flex: 0 0 38%; }
dd { margin: 0; min-width: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 18px 26px; }
.charts.few { max-width: 900px; }
figure { margin: 0; }
figcaption { font-size: 14px; font-weight: 600; margin-bottom: 4px; }
.chart { max-width: 560px; }
.chart > svg { width: 100%; height: auto; display: block; }
svg text { font-size: 11.5px; fill: var(--faint); font-family: inherit; }
svg text.name { font-size: 12px; }
svg .grid { stroke: var(--rule); stroke-width: 0.7; fill: none; }
svg .axis { stroke: var(--faint); stroke-width: 1; fill: none; }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .band { stroke: none; opacity: 0.16; }
svg .line.s0 { stroke: var(--s0); } svg .band.s0 { fill: var(--s0); }
svg .line.s1 { stroke: var(--s1); stroke-dasharray: 7 2; } svg .band.s1 { fill: var(--s1); }
svg .line.s2 { stroke: var(--s2); stroke-dasharray: 2 2; } svg .band.s2 { fill: var(--s2); }
svg .line.s3 { stroke: var(--s3); stroke-dasharray: 8 2 2 2; } svg .band.s3 { fill: var(--s3); }
svg .line.s4 { stroke: var(--s4); stroke-dasharray: 12 3; } svg .band.s4 { fill: var(--s4); }
svg .line.s5 { stroke: var(--s5); stroke-dasharray: 4 2; } svg .band.s5 { fill: var(--s5); }
svg .line.upper { stroke: var(--upper); stroke-width: 1.5; stroke-dasharray: 2 2.5; }
.legend { list-style: none; padding: 0; margin: 4px 0 0; font-size: 13px; display: flex;
  flex-wrap: wrap; gap: 2px 16px; }
.swatch { width: 24px; height: 10px; margin-right: 6px; }
.claim details { border: none; padding: 0; margin: 0; }
.gallery { list-style: none; padding: 0; margin: 10px 0; display: grid; gap: 14px 14px;
  grid-template-columns: repeat(auto-fill, minmax(118px, 1fr)); }
.gallery li { font-size: 13px; line-height: 1.35; }
.gallery.pairs { grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.gallery .row { display: flex; gap: 8px; }
.gallery .row figure { flex: 1 1 0; max-width: 128px; font-size: 12px; }
.gallery img { width: 100%; height: auto; max-width: 128px; display: block;
  image-rendering: pixelated; border: 1px solid var(--rule); }
.gallery figcaption { font-weight: 400; font-size: 12px; color: var(--faint); }
details { margin: 10px 0; border: 1px solid var(--rule); border-radius: 5px; padding: 0 12px; }
details[open] { padding-bottom: 10px; }
summary { cursor: pointer; padding: 7px 0; font-weight: 600; font-size: 14.5px; }
pre { overflow-x: auto; background: var(--panel); padding: 10px 12px; font-size: 12.5px; line-height: 1.4;
  margin: 8px 0; white-space: pre-wrap; max-height: 70vh; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.findings { padding-left: 20px; font-size: 14px; }
.findings .differs { color: var(--bad); font-weight: 600; }
.skip { position: absolute; left: -999px; } .skip:focus { position: static; }
@media (max-width: 560px) {
  header, main, footer { padding-left: 14px; padding-right: 14px; }
  body { font-size: 15px; } h1 { font-size: 1.35rem; } h2 { font-size: 1.15rem; }
  th, td { padding: 4px 8px; } dl { grid-template-columns: 1fr; }
  .gallery { grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); } }
@media print {
  :root { color-scheme: light; --back: #fff; --panel: #f5f6f8; --ink: #000; --faint: #444; --rule: #bbb; --link: #000;
    --good: #12693a; --good-back: #fff; --bad: #a31621; --bad-back: #fff; --warn: #7a4d00; --warn-back: #fff;
    --s0: #0b62a8; --s1: #b9480a; --s2: #00785a; --s3: #9a3f86; --s4: #7a6400; --s5: #4a5560; --upper: #838c96; }
  body { font-size: 10.5pt; } header, main, footer { max-width: none; } nav { display: none; }
  .scroll { overflow: visible; } table { font-size: 8.5pt; } th, td { padding: 2px 6px; }
  pre { max-height: none; overflow: visible; }
  figure, tr, .gallery li, .notice, .claim { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""
