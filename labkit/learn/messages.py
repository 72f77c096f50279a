"""Everything that labkit says to a learner, in the notebook's language."""

from __future__ import annotations

MESSAGES = {
    "en": {
        "begin": "**{title}** · about {minutes} minutes · {solved} of {total} exercises solved",
        "begin_first": 'Write your code and run `check("{name}")`; `hint("{name}")` helps step by step.',
        "begin_next": 'Next: `{name}`, "{title}".',
        "begin_all": "Every exercise that can be checked here is solved.",
        "begin_lesson": "**{module}** · its homework: `{path}`, {solved} of {total} exercises solved",
        "begin_bare": "{module}: no homework was found beside this notebook, so nothing is checked here.",
        "correct": "**Correct: {title}.**",
        "correct_hidden": "The visible tests pass. Hidden tests look at more when the work is graded.",
        "correct_next": "Next: `{name}`, {title}.",
        "correct_all": "That was the last one. `labkit progress` shows the whole course.",
        "wrong": "**Not yet: {title}.**",
        "wrong_plain": "A visible test does not hold: `{line}`",
        "wrong_again": 'It is the same point as before; `hint("{name}")` gives the next step.',
        "raised": "**Your code raised an error: {title}.**",
        "raised_outside": "The test could not go on with what your code returned; it stopped at `{line}`.",
        "not_attempted": "**Not attempted yet: {title}.**",
        "not_attempted_body": "`{what}` still holds its placeholder; replace it and run the cell.",
        "not_attempted_missing": "`{what}` is not defined; run the cell that defines it, then check again.",
        "answer": "**{title}** is an answer in words: a person grades it, so there is nothing to check here.",
        "step": "**Hint {number} of {total}: {title}.**",
        "step_more": 'Another `hint("{name}")` gives the next one.',
        "step_last": "That was the last hint; all of them are above.",
        "no_steps": "{title} has no step-by-step hints; `check` says what is wrong.",
        "no_begin": 'Run the notebook\'s first cell, `begin("…")`, then try again.',
        "no_homework": "The tests of {module} are not on this computer: `check` and `hint` do nothing here.",
        "unknown": "There is no exercise `{name}` in {module}; its exercises are {known}.",
        "read_only": "Your progress was not recorded: {path} cannot be written. All else works.",
        "direct": "This test does not hold: {text}",
        "where": "In [{cell}], line {line}",
        "where_file": "{file}, line {line}",
        "in_function": ", in {function}",
    },
    "zh": {
        "begin": "**{title}** · 约 {minutes} 分钟 · 共 {total} 题，已完成 {solved} 题",
        "begin_first": '写好代码后运行 `check("{name}")`；`hint("{name}")` 每次给一步提示。',
        "begin_next": "下一题：`{name}`，{title}。",
        "begin_all": "能在这里检查的题目已全部完成。",
        "begin_lesson": "**{module}** · 配套作业：`{path}`，共 {total} 题，已完成 {solved} 题",
        "begin_bare": "{module}：在笔记本旁边没有找到作业，这里不做检查。",
        "correct": "**正确：{title}。**",
        "correct_hidden": "可见测试已通过。正式评分时，隐藏测试还会检验其他性质。",
        "correct_next": "下一题：`{name}`，{title}。",
        "correct_all": "这是最后一题。运行 `labkit progress` 可以查看整门课的进度。",
        "wrong": "**还不对：{title}。**",
        "wrong_plain": "有一条可见测试不成立：`{line}`",
        "wrong_again": '和上次是同一个问题；`hint("{name}")` 会给出下一步提示。',
        "raised": "**代码运行出错：{title}。**",
        "raised_outside": "测试没法用你的返回值继续下去，停在了 `{line}`。",
        "not_attempted": "**还没有作答：{title}。**",
        "not_attempted_body": "`{what}` 里还是占位代码；请在那里写上你的代码并运行那个单元格。",
        "not_attempted_missing": "`{what}` 还没有定义；请先运行定义它的单元格，再检查。",
        "answer": "**{title}** 是文字题，由老师批改，这里不做检查。",
        "step": "**提示 {number}/{total}：{title}。**",
        "step_more": '再运行一次 `hint("{name}")` 可以看下一条。',
        "step_last": "这是最后一条提示，全部提示都在上面。",
        "no_steps": "{title} 没有分步提示；`check` 会指出问题在哪里。",
        "no_begin": '请先运行笔记本的第一个代码单元格 `begin("…")`，再试一次。',
        "no_homework": "这台电脑上没有 {module} 的可见测试，`check` 和 `hint` 在这里不起作用。",
        "unknown": "{module} 里没有名为 `{name}` 的题目；题目有：{known}。",
        "read_only": "学习进度没能写入 {path}（该位置不可写），其他功能不受影响。",
        "direct": "这条测试不成立：{text}",
        "where": "In [{cell}]，第 {line} 行",
        "where_file": "{file}，第 {line} 行",
        "in_function": "，{function} 中",
    },
}


def say(lang: str, key: str, **values: object) -> str:
    """One message in one language, English for a language that is not there.

    Example:
        >>> say("en", "no_steps", title="RRF")
        'RRF has no step-by-step hints; `check` says what is wrong.'
    """
    return MESSAGES.get(lang, MESSAGES["en"])[key].format(**values)
