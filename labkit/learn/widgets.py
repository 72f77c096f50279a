"""Things a learner moves with the mouse or the keyboard, each with a figure and a text that say the same."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.learn.figures import INK, PALETTE, figure_style, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Engine = Callable[[str], Any] | np.ndarray  # text -> (N,) scores, or all scores as (Q, N)

TEXT = {
    "en": {
        "query": "Query",
        "weight": "{name} share",
        "rank": "Rank",
        "document": "Document",
        "grade": "Grade",
        "why": "Why it stands here",
        "why_line": "{a} {sa:.2f} × {wa:.2f} (rank {ra}) + {b} {sb:.2f} × {wb:.2f} (rank {rb}) = {total:.2f}",
        "shared": "; words shared: {words}",
        "none_shared": "; no word shared",
        "figure": "Top {k} for “{query}”",
        "score": "combined score, by engine",
        "curve": "nDCG@{k} of this query",
        "summary": "“{query}”, {b} share {w:.2f}",
        "quality": ": nDCG@{k} = {ndcg:.3f}",
        "help": "Arrow keys move the slider while it has the focus.",
    },
    "zh": {
        "query": "查询",
        "weight": "{name} 权重",
        "rank": "名次",
        "document": "商品",
        "grade": "相关等级",
        "why": "为什么排在这里",
        "why_line": "{a} {sa:.2f} × {wa:.2f}(第{ra}名) + {b} {sb:.2f} × {wb:.2f}(第{rb}名) = {total:.2f}",
        "shared": "；共有词：{words}",
        "none_shared": "；没有共有词",
        "figure": "“{query}”的前 {k} 名",
        "score": "合并得分及其组成",
        "curve": "该查询的 nDCG@{k}",
        "summary": "“{query}”，{b} 权重 {w:.2f}",
        "quality": "：nDCG@{k} = {ndcg:.3f}",
        "help": "选中滑块后，可以用方向键移动。",
    },
}


@dataclass(frozen=True)
class Ranked:
    """The first results of one query at one weight."""

    ids: np.ndarray  # (k,) int, best first
    parts: np.ndarray  # (2, k) each engine's normalised score
    ranks: np.ndarray  # (2, k) the result's rank in each engine alone, from 1
    weight: float  # of the second engine, in [0, 1]

    @property
    def totals(self) -> np.ndarray:  # (k,)
        return (1 - self.weight) * self.parts[0] + self.weight * self.parts[1]


class RankingComparison:
    """Two engines, some queries, every ranking between them: what the explorer shows, without widgets.

    Each engine's scores are scaled to [0, 1] per query (min-max over all documents), then mixed as
    ``(1 - weight) * first + weight * second``. Of equal scores the lower document number comes first.

    Args:
        engines: exactly two, by the names to show. A callable takes the query's text and returns (N,) scores;
            an array holds all scores, (Q, N).
        queries: (Q,) texts.
        documents: (N,) texts, shown and searched for shared words.
        grades: (Q, N) array or one ``{document: grade}`` per query; None when nothing is judged.
        k: results shown.
        lang: ``"en"`` or ``"zh"``.

    Raises:
        ValueError: the parts do not fit together; the message says which.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        queries: Sequence[str],
        documents: Sequence[str],
        grades: np.ndarray | Sequence[Mapping[int, int]] | None = None,
        *,
        k: int = 10,
        lang: str = "en",
    ):
        if len(engines) != 2:
            raise ValueError(f"The explorer mixes exactly two engines; it was given {len(engines)}.")
        if not len(queries) or not len(documents):
            raise ValueError("The explorer needs at least one query and one document.")
        for name, engine in engines.items():
            shape = None if callable(engine) else np.shape(engine)
            if shape is not None and shape != (len(queries), len(documents)):
                expected = (len(queries), len(documents))
                raise ValueError(f"The scores of {name!r} have the shape {shape}; {expected} is needed.")
        if grades is not None and len(grades) != len(queries):
            raise ValueError(f"There are grades for {len(grades)} queries, but {len(queries)} queries.")
        self.names = list(engines)
        self.engines = list(engines.values())
        self.queries, self.documents = list(queries), list(documents)
        self.k = min(k, len(self.documents))
        self.text = TEXT.get(lang, TEXT["en"])
        self._qrels = None if grades is None else [_judged(row) for row in grades]
        self._scores: dict[int, np.ndarray] = {}

    def scores(self, query: int) -> np.ndarray:
        """(2, N) normalised scores of one query, by its number."""
        if query not in self._scores:
            rows = []
            for name, engine in zip(self.names, self.engines, strict=True):
                raw = engine(self.queries[query]) if callable(engine) else engine[query]
                row = np.asarray(raw, dtype=np.float64)
                if row.shape != (len(self.documents),):
                    needed = (len(self.documents),)
                    raise ValueError(
                        f"The scores of {name!r} have the shape {row.shape}; {needed} is needed."
                    )
                spread = row.max() - row.min()
                rows.append((row - row.min()) / spread if spread > 0 else np.zeros_like(row))
            self._scores[query] = np.stack(rows)
        return self._scores[query]

    def ranked(self, query: int, weight: float) -> Ranked:
        """The top k of one query at one weight of the second engine."""
        scores = self.scores(query)
        ids = np.argsort(-self._mix(scores, weight), kind="stable")[: self.k]
        # A result's rank in one engine: how many documents come before it there.
        index = np.arange(scores.shape[1])
        before = [
            [int(np.sum((row > row[i]) | ((row == row[i]) & (index < i)))) + 1 for i in ids] for row in scores
        ]
        return Ranked(ids, scores[:, ids], np.array(before), weight)

    def grade(self, query: int, document: int) -> int | None:
        """The judgement, 0 when it is not relevant, None when nothing is judged."""
        return None if self._qrels is None else self._qrels[query].get(int(document), 0)

    def curve(self, query: int, weights: np.ndarray) -> np.ndarray | None:
        """nDCG@k of one query at each weight, None when the query has no relevant document."""
        if self._qrels is None or not self._qrels[query]:
            return None
        from labkit.evaluate import evaluate_ranked, nDCG

        scores = self.scores(query)
        ids = np.stack([np.argsort(-self._mix(scores, w), kind="stable")[: self.k] for w in weights])
        measure = nDCG @ self.k
        qrels = dict.fromkeys(range(len(weights)), self._qrels[query])
        return evaluate_ranked([measure], ids, qrels)[measure]

    @staticmethod
    def _mix(scores: np.ndarray, weight: float) -> np.ndarray:
        return (1 - weight) * scores[0] + weight * scores[1]

    def why(self, query: int, result: Ranked, place: int) -> str:
        """One line that accounts for the result in this place (from 0)."""
        from labkit.text import tokenize

        words = set(tokenize(self.documents[result.ids[place]]))
        shared = [word for word in dict.fromkeys(tokenize(self.queries[query])) if word in words]
        line = self.text["why_line"].format(
            a=self.names[0],
            b=self.names[1],
            sa=result.parts[0, place],
            sb=result.parts[1, place],
            wa=1 - result.weight,
            wb=result.weight,
            ra=result.ranks[0, place],
            rb=result.ranks[1, place],
            total=result.totals[place],
        )
        return line + (
            self.text["shared"].format(words=", ".join(shared)) if shared else self.text["none_shared"]
        )

    def summary(self, query: int, weight: float) -> str:
        """The query, the weight and the quality in one line."""
        line = self.text["summary"].format(query=self.queries[query], b=self.names[1], w=weight)
        quality = self.curve(query, np.array([weight]))
        return line if quality is None else line + self.text["quality"].format(k=self.k, ndcg=quality[0])

    def as_text(self, query: int = 0, weight: float = 0.5) -> str:
        """The whole view as text, for a terminal or a screen reader."""
        result = self.ranked(query, weight)
        lines = [self.summary(query, weight)]
        for place, document in enumerate(result.ids):
            grade = self.grade(query, document)
            mark = "" if grade is None else f" [{self.text['grade']} {grade}]"
            lines.append(f"{place + 1:2d}. {_short(self.documents[document], 70)}{mark}")
            lines.append(f"    {self.why(query, result, place)}")
        return "\n".join(lines)

    def as_table(self, query: int, weight: float) -> str:
        """The top k as an HTML table."""
        result, text = self.ranked(query, weight), self.text
        graded = self._qrels is not None
        heads = [text["rank"], text["document"], *([text["grade"]] if graded else []), text["why"]]
        cell = 'style="text-align:left;vertical-align:top;padding:2px 10px 2px 0"'
        rows = []
        for place, document in enumerate(result.ids):
            values = [str(place + 1), _short(self.documents[document], 70)]
            values += [str(self.grade(query, document))] if graded else []
            values.append(self.why(query, result, place))
            rows.append(
                "<tr>" + "".join(f"<td {cell}>{html.escape(value)}</td>" for value in values) + "</tr>"
            )
        head = "".join(f'<th scope="col" {cell}>{html.escape(name)}</th>' for name in heads)
        caption = (
            f'<caption style="text-align:left"><b>{html.escape(self.summary(query, weight))}</b></caption>'
        )
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"

    def figure(self, query: int = 0, weight: float = 0.5) -> Figure:
        """Left: what each engine adds to each result. Right: quality at every weight."""
        from matplotlib.figure import Figure

        result, text = self.ranked(query, weight), self.text
        weights = np.linspace(0, 1, 41)
        curve = self.curve(query, weights)
        with figure_style():
            # No pyplot: the figure belongs to the widget and must not show up as a cell's own.
            figure = Figure(figsize=(9, 3.8) if curve is not None else (6.4, 3.8), layout="constrained")
            panels = 1 if curve is None else 2
            axes = figure.subplots(1, panels, squeeze=False, width_ratios=[3, 2][:panels])[0]
            self._draw_bars(axes[0], query, result)
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=8)
            if curve is not None:
                now = np.interp(weight, weights, curve)
                axes[1].plot(weights, curve, color=PALETTE["green"])
                axes[1].axvline(weight, color=INK, linewidth=1, linestyle="--")
                axes[1].plot([weight], [now], "o", color=PALETTE["vermillion"], zorder=3)
                axes[1].set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.05), title=text["curve"].format(k=self.k))
                axes[1].set_xlabel(text["weight"].format(name=self.names[1]))
        return figure

    def _draw_bars(self, axes: Any, query: int, result: Ranked) -> None:
        places = np.arange(len(result.ids))
        first, second = (1 - result.weight) * result.parts[0], result.weight * result.parts[1]
        axes.barh(places, first, color=PALETTE["blue"], label=self.names[0])
        # The hatch tells the two apart in black and white.
        look = {"color": PALETTE["orange"], "hatch": "//", "edgecolor": "white", "linewidth": 0}
        axes.barh(places, second, left=first, label=self.names[1], **look)
        for place, document in enumerate(result.ids):
            grade = self.grade(query, document)
            if grade is not None:
                label, end = f"{self.text['grade']} {grade}", result.totals[place] + 0.01
                axes.text(end, place, label, va="center", fontsize=8)
        labels = [f"{place + 1}. {_short(self.documents[d], 28)}" for place, d in enumerate(result.ids)]
        axes.set_yticks(places, labels, fontsize=8)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set(xlim=(0, 1.22), xticks=[0, 0.25, 0.5, 0.75, 1], xlabel=self.text["score"])
        axes.set_title(self.text["figure"].format(k=self.k, query=_short(self.queries[query], 30)))


def ranking_explorer(
    engines: Mapping[str, Engine],
    queries: Sequence[str],
    documents: Sequence[str],
    grades: np.ndarray | Sequence[Mapping[int, int]] | None = None,
    *,
    k: int = 10,
    weight: float = 0.5,
    lang: str | None = None,
) -> None:
    """Show a ranking that moves: choose a query, slide from one engine to the other, see who rises and why.

    In JupyterLab: a query list, a slider (arrow keys work), the top k with the account of each result, and a
    figure that follows. Where no kernel is live (a web page, a stored notebook) the same figure stands still;
    in a terminal the same content is printed as text.

    Args:
        engines, queries, documents, grades, k: as for :class:`RankingComparison`.
        weight: of the second engine at the start, in [0, 1].
        lang: None for the language that ``begin`` was given.

    Raises:
        ValueError: the parts do not fit together; the message says which.

    Example:
        >>> ranking_explorer({"words": np.eye(2), "sense": 1 - np.eye(2)}, ["a", "b"], ["a b", "b c"])
        “a”, sense share 0.50
         1. a b
            words 1.00 × 0.50 (rank 1) + sense 0.00 × 0.50 (rank 2) = 0.50; words shared: a
         2. b c
            words 0.00 × 0.50 (rank 2) + sense 1.00 × 0.50 (rank 1) = 0.50; no word shared
    """
    from labkit.learn import session

    if lang is None:
        lang = session.current_lang()
    view = RankingComparison(engines, queries, documents, grades, k=k, lang=lang)
    if not session.rich_front_end():
        print(view.as_text(0, weight))
        return
    from IPython.display import display

    display(_bundle(view, _controls(view, weight), weight), raw=True)


def _controls(view: RankingComparison, weight: float) -> Any:
    """The live part: an ipywidgets box."""
    import ipywidgets as widgets

    wide = widgets.Layout(width="34em")
    options = [(text, number) for number, text in enumerate(view.queries)]
    query = widgets.Dropdown(options=options, value=0, description=view.text["query"], layout=wide)
    label = view.text["weight"].format(name=view.names[1])
    slider = widgets.FloatSlider(
        value=weight,
        min=0,
        max=1,
        step=0.05,
        description=label,
        layout=wide,
        style={"description_width": "initial"},
    )
    slider.tooltip = view.text["help"]
    table, picture = widgets.HTML(), widgets.Output()

    def draw(_: object = None) -> None:
        table.value = view.as_table(query.value, slider.value)
        data = _picture(view, query.value, slider.value)
        # Set at once rather than printed into, so that quick moves never interleave two pictures.
        picture.outputs = ({"output_type": "display_data", "data": data, "metadata": {}},)

    for control in (query, slider):
        control.observe(draw, names="value")
    draw()
    return widgets.VBox(
        [query, slider, widgets.HTML(f"<small>{html.escape(view.text['help'])}</small>"), picture, table]
    )


def _picture(view: RankingComparison, query: int, weight: float) -> dict[str, str]:
    image = base64.b64encode(png(view.figure(query, weight))).decode("ascii")
    return {"image/png": image, "text/plain": view.as_text(query, weight)}


def _bundle(view: RankingComparison, box: Any, weight: float) -> dict[str, Any]:
    """One output in three forms: a front end takes the richest that it can show."""
    live = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    return {**_picture(view, 0, weight), "application/vnd.jupyter.widget-view+json": live}


def _judged(row: Any) -> dict[int, int]:
    """Relevant documents of one query with their grades."""
    if isinstance(row, Mapping):
        return {int(document): int(grade) for document, grade in row.items() if grade > 0}
    row = np.asarray(row)
    return {int(document): int(row[document]) for document in np.flatnonzero(row > 0)}


def _short(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"
