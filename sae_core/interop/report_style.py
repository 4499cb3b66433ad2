"""The style sheet of the HTML report: the dashboard's colours, light and dark by what the reader prefers. Light."""

from __future__ import annotations

TOKEN_COLOURS = {
    False: ("#332288", "#88ccee", "#117733", "#ddcc77", "#cc6677", "#aa4499", "#44aa99", "#999933", "#882255"),
    True: ("#8f83e0", "#88ccee", "#3fa35c", "#ddcc77", "#cc6677", "#c46ab5", "#44aa99", "#b5b54a", "#c4527f"),
}
COLOURS = {
    False: {"activation": "#e69f00", "raised": "#0072b2", "lowered": "#c8501e", "chosen": "#0f766e",
            "muted": "#a9b2ae", "text": "#1c2321", "background": "#ffffff"},
    True: {"activation": "#b87a00", "raised": "#56b4e9", "lowered": "#f08a5d", "chosen": "#2fa394",
           "muted": "#5d6864", "text": "#e6eae8", "background": "#121615"},
}  # fmt: skip
_RULES = """
body{margin:0 auto;max-width:74rem;padding:1.5rem clamp(1rem,4vw,3rem) 4rem;background:var(--background);
color:var(--text);font:16px/1.5 system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.3rem;margin:0;overflow-wrap:anywhere}
h3{font-size:1.05rem;margin:1.4rem 0 .4rem}h4{font-size:.92rem;margin:.2rem 0}
p{margin:.3rem 0}a{color:var(--chosen)}.note{opacity:.8;font-size:.88rem}
article{border-top:3px solid var(--chosen);margin-top:2.5rem;padding-top:.8rem}
.badge{font-size:.78rem;font-weight:400;border:1px solid var(--muted);border-radius:99px;padding:.05rem .5rem;
white-space:nowrap}
.label{font-weight:400}
.numbers{display:flex;flex-wrap:wrap;gap:.4rem 2rem;margin:.6rem 0}.numbers div{min-width:6.5rem}
.numbers b{display:block;font-size:1.15rem;font-variant-numeric:tabular-nums}
.numbers span{font-size:.82rem;opacity:.8}
.sides{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:0 2.5rem}
.sides>*{min-width:0}
code,.tok,.ctx{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.86rem}
.tok{white-space:pre-wrap;border-radius:3px;padding:0 .2em;
background:color-mix(in srgb,var(--muted) 18%,transparent)}
.ctx{display:grid;grid-template-columns:5.2rem minmax(0,1fr);gap:.8rem;padding:.45rem 0;
border-top:1px solid color-mix(in srgb,var(--muted) 45%,transparent)}
.ctx div{white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.7}
.ctx small{opacity:.8;text-align:right;overflow:hidden;text-overflow:ellipsis}
.ctx b{font-weight:400;border-radius:3px;
background:color-mix(in srgb,var(--activation) calc(8% + var(--a)*.55%),transparent)}
.ctx b.peak{outline:2px solid var(--text);outline-offset:-1px;font-weight:600}
table{border-collapse:collapse;width:100%;font-size:.9rem}
td,th{padding:.15rem .6rem .15rem 0;text-align:left;vertical-align:middle}
.scroll{overflow-x:auto}
th{font-weight:600;opacity:.8}td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.bar{width:45%}td.bar i{display:block;height:.75rem;border-radius:2px}
.lowered i{background:var(--lowered)}.raised i{background:var(--raised)}
svg{width:100%;height:auto;max-width:40rem;display:block}
svg text{fill:var(--text);font:11px system-ui,sans-serif}svg line{stroke:var(--muted)}
.legend{display:flex;flex-wrap:wrap;gap:.2rem .9rem;list-style:none;padding:0;margin:.3rem 0}
.legend i{display:inline-block;width:.8rem;height:.8rem;border-radius:2px;margin-right:.35rem;vertical-align:-1px}
.tree,.tree ul{list-style:none;margin:0;padding-left:1.2rem;border-left:2px solid var(--muted)}
.tree li{padding:.1rem 0;overflow-wrap:anywhere}.tree{border:0;padding:0}
.drop{display:inline-block;min-width:4.2rem;font-variant-numeric:tabular-nums;font-weight:600}
.minus{color:var(--lowered)}.plus{color:var(--raised)}
@media(max-width:640px){.ctx{grid-template-columns:1fr;gap:0}.ctx small{text-align:left}}
@media print{article{break-before:page}}
"""


def style_sheet() -> str:
    """CSS of the whole report; colours are variables, so that nothing else knows the theme."""
    dark = f"@media(prefers-color-scheme:dark){{:root{{{_variables(True)}}}}}"
    return f":root{{color-scheme:light dark;{_variables(False)}}}{dark}{_RULES}"


def _variables(dark: bool) -> str:
    named = COLOURS[dark] | {f"t{i}": colour for i, colour in enumerate(TOKEN_COLOURS[dark])}
    return "".join(f"--{name}:{colour};" for name, colour in named.items())
