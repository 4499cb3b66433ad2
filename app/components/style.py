"""The one style sheet. It names classes of this package only and takes colours from the theme."""

from __future__ import annotations

from app.components.layout import STACK_BELOW
from app.palette import Palette

_MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"


def style_sheet(colours: Palette) -> str:
    """CSS of the components, to be shown once on each page by main."""
    line = f"color-mix(in srgb, {colours.muted} 45%, transparent)"
    # What scrolls sideways fades at its right edge until its end is reached. Streamlit's tables can only be shaded:
    # .dvn-scroller lies over their canvas. Browsers that cannot tie an animation to scrolling show neither.
    faint = f"color-mix(in srgb, {colours.muted} 16%, transparent)"
    return f"""<style>
[data-testid="stMainBlockContainer"] {{padding:2.6rem 3rem 3rem}}
@media (max-width:{STACK_BELOW}px) {{
 [class*="st-key-stack"] [data-testid="stHorizontalBlock"] {{row-gap:1.2rem}}
 [class*="st-key-stack"] [data-testid="stColumn"] {{min-width:100%;flex-basis:100%}}
 [class*="st-key-stack"] [data-testid="stColumn"]:not(:has([data-testid="stElementContainer"])) {{display:none}}
 .sae-table th,.sae-table td {{padding-right:.55rem}}}}
@media (max-width:900px) {{[data-testid="stMainBlockContainer"] {{padding:3.2rem 1.2rem 2rem}}}}
.sae-tokens {{font-family:{_MONO};font-size:.86rem;line-height:1.75;overflow-wrap:anywhere;white-space:pre-wrap}}
.sae-token {{font-family:{_MONO};white-space:pre-wrap;padding:.1em .06em;border-radius:3px;color:inherit;
 text-decoration:none}}
a.sae-token:hover {{outline:1px solid {colours.chosen}}}
.sae-token.sae-peak {{outline:2px solid {colours.text};outline-offset:-1px;font-weight:600}}
.sae-token.sae-single {{background:{faint};padding:.08em .35em;font-size:.86rem}}
.sae-chips {{display:inline-flex;flex-wrap:wrap;gap:.25rem}}
.sae-error {{display:grid;grid-template-columns:max-content 1fr;gap:.35rem 1rem;margin:.5rem 0;padding:.9rem 1.1rem;
 border:1px solid {line};border-left:4px solid {colours.chosen};border-radius:6px;overflow-wrap:anywhere}}
.sae-banner {{margin:0 0 .6rem;padding:.55rem .9rem;border:1px solid {line};border-radius:6px;background:{faint};
 font-size:.88rem;overflow-wrap:anywhere}}
.sae-banner p {{margin:.1rem 0}}
.sae-missing {{margin:.4rem 0;padding:.5rem .8rem;border-left:3px solid {line};font-size:.9rem;opacity:.85;
 overflow-wrap:anywhere}}
.sae-error span:nth-child(odd) {{font-weight:600}}
.sae-heading {{font-size:1.6rem;font-weight:650;margin:0;padding:0;overflow-wrap:anywhere}}
.sae-label {{font-weight:400;opacity:.8;margin-left:.4rem}}
.sae-note {{opacity:.75;font-size:.87rem;margin:0;overflow-wrap:anywhere}}
.sae-badge {{display:inline-block;font-size:.78rem;padding:.08rem .5rem;border:1px solid {line};border-radius:99px;
 margin-right:.35rem;white-space:nowrap}}
.sae-facts {{display:grid;grid-template-columns:minmax(6rem,max-content) minmax(9rem,1fr);gap:.2rem 1.2rem;
 font-size:.9rem;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}}
.sae-facts span:nth-child(odd) {{opacity:.7}}
.sae-context {{display:grid;grid-template-columns:4.2rem 1fr;gap:.9rem;padding:.55rem 0;border-top:1px solid {line}}}
.sae-source {{display:block;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}}
.sae-context-side {{min-width:0;font-size:.8rem;opacity:.8;font-variant-numeric:tabular-nums;text-align:right;
padding-top:.15rem}}
.sae-card {{display:block;border:1px solid {line};border-radius:8px;padding:.75rem .9rem;
 color:inherit!important;text-decoration:none!important}}
.sae-box p {{margin:.35rem 0 0}}
a.sae-card:hover,a.sae-card:focus-visible {{border-color:{colours.chosen}}}
.sae-cards {{display:grid;grid-template-columns:repeat(auto-fill,minmax(225px,1fr));gap:.8rem}}
.sae-card-title {{font-weight:600;font-size:.92rem;overflow:hidden;text-overflow:ellipsis;white-space:nowrap}}
.sae-card-plot {{display:flex;align-items:flex-end;gap:2px;height:72px;margin:.45rem 0;border-bottom:1px solid {line}}}
.sae-card-plot > div {{flex:1;display:flex;flex-direction:column-reverse}}
.sae-card-tokens {{min-height:1.6rem;margin-bottom:.35rem;max-height:3.4rem;overflow:hidden}}
.sae-claim {{border:1px solid {line};border-left:4px solid {colours.muted};border-radius:6px;margin:.5rem 0;
 padding:.7rem 1rem;overflow-wrap:anywhere}}
.sae-verdict-0 {{border-left-color:{colours.chosen}}}
.sae-verdict-2 {{border-left-color:{colours.lowered}}}
.sae-claim-head {{display:grid;grid-template-columns:9.5rem 1fr;gap:.3rem 1rem;font-weight:600}}
.sae-verdict {{white-space:nowrap;font-weight:650}}
.sae-claim-sides {{display:grid;grid-template-columns:9.5rem 1fr;gap:.15rem 1rem;margin-top:.35rem;font-size:.9rem;
 font-variant-numeric:tabular-nums}}
.sae-claim-sides span:nth-child(odd) {{opacity:.7}}
@media (max-width:{STACK_BELOW}px) {{.sae-claim-head {{grid-template-columns:1fr}}
 .sae-claim-sides {{grid-template-columns:4.6rem 1fr}}}}
[class*="st-key-wide"] {{overflow-x:auto}}
@keyframes sae-more {{from {{box-shadow:inset -18px 0 16px -14px {colours.clean}}} 95%,to {{box-shadow:none}}}}
@keyframes sae-fade {{from,95% {{mask-image:linear-gradient(to left,transparent,#000 2.2rem)}} to {{mask-image:none}}}}
.dvn-scroller {{animation:sae-more linear both;animation-timeline:scroll(self inline)}}
.sae-table,[class*="st-key-wide"] {{animation:sae-fade linear both;animation-timeline:scroll(self inline)}}
.sae-table {{overflow-x:auto;font-size:.92rem}}
.sae-table table {{width:100%;border-collapse:collapse}}
.sae-table th {{text-align:left;font-weight:600;opacity:.75}}
.sae-table th,.sae-table td {{padding:.35rem .9rem .35rem 0;border-bottom:1px solid {line};vertical-align:top}}
.sae-table .sae-number {{text-align:right;font-variant-numeric:tabular-nums}}
.sae-table td.sae-number {{white-space:nowrap}}
.sae-table a {{color:{colours.chosen};white-space:nowrap}}
@media (max-width:640px) {{.sae-context {{grid-template-columns:1fr;gap:.1rem}} .sae-context-side {{text-align:left}}}}
@media (max-width:1000px) {{.st-key-live [data-testid="stHorizontalBlock"] {{flex-wrap:wrap;row-gap:1.2rem}}
 .st-key-live [data-testid="stColumn"] {{min-width:min(100%,17rem)}}
 .st-key-live_numbers [data-testid="stColumn"] {{min-width:12rem}}}}
</style>"""
