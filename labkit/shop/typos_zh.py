"""Slips of a Chinese shopper's input method: right sound, wrong character; or a character lost or swapped."""

from __future__ import annotations

import re

from labkit.shop.chance import Dice

# Characters that a pinyin keyboard offers side by side: same sound, sometimes another tone.
_SAME_SOUND = (
    "沙砂纱", "发法罚", "床窗", "垫店", "椅以", "桌卓", "柜贵", "架价", "套桃", "被背", "枕整", "巾斤金",
    "毯谈", "帘连莲", "锅国", "刀到", "杯背", "壶胡", "机级鸡", "咖卡", "啡飞", "炸扎", "料聊", "盒合和",
    "保宝饱", "温文", "耳尔", "线现限", "充冲", "电店", "手首", "壳可", "膜模", "支只", "蓝兰篮", "牙呀",
    "音因", "箱香", "鼠属", "标彪", "键建件", "盘判", "显险", "示是", "器气", "屏平瓶", "本苯", "包胞",
    "鞋协", "靴学", "跑炮", "运云", "动东冬", "衣依", "服福", "裤库", "裙群", "帽冒", "袜瓦", "外歪", "羽雨",
    "绒容", "毛茅", "雪血", "凉良", "拖托", "背贝", "钱前", "夹佳", "行形", "李里", "拉啦", "婴樱", "儿而",
    "童同", "车扯", "奶乃", "瓶平", "玩完", "具剧", "积及", "木目", "拼品", "图涂", "娃哇", "面棉", "霜双",
    "膏高", "洗喜", "护户", "防房", "晒筛", "口扣", "红虹", "香相", "水税", "剪减", "草早", "花华", "园圆",
    "灯登", "狗够", "猫毛", "粮良", "窝蜗", "笼龙", "帐账", "篷蓬", "睡水", "袋带", "球求", "拍排", "瑜鱼",
    "伽加", "绳声", "哑亚", "铃玲", "单丹", "双爽", "人仁", "位为", "色涩", "黑嘿", "白百", "灰辉", "绿律",
    "粉份", "大达", "小晓", "厚后", "薄博", "长常", "短段", "高糕", "低底", "无吴", "真针", "皮披", "棉绵",
    "麻马", "实石", "橡象像", "静净", "轻青", "便变", "折者", "叠跌", "升生", "降将", "气汽", "快块", "收手",
    "纳那", "办半", "公工", "记纪", "书叔", "茶查", "几己", "抱报", "靠考", "坐座", "笔比", "烤考", "平评",
    "底低", "不布", "粘沾", "浴玉", "窗床", "地第", "沐木", "乳入", "精晶", "油由", "眼演", "影英", "唇纯",
    "刷耍", "梳书", "吹炊", "风峰", "剃替", "须需",
)  # fmt: skip
_SOUNDS = {group[0]: group[1:] for group in _SAME_SOUND}

_RUN = re.compile(r"[\u4e00-\u9fff]+")


def misspelt_zh(text: str, dice: Dice) -> str:
    """Spoil one Chinese character, or two in a long text; digits and Latin letters stay as they are.

    Args:
        text: With at least one Chinese character.
        dice: Decides where and how.

    Returns:
        The text with a character of the same sound, or with two neighbours swapped, or with one lost (only in
        runs of four and more, so that a two-character word stays a word); never the text itself.

    Raises:
        ValueError: The text has no Chinese character.

    Example:
        >>> misspelt_zh("沙发", Dice(0, "slip")) != "沙发"
        True
    """
    if not _RUN.search(text):
        raise ValueError(f"{text!r} has no Chinese character that could be misspelt.")
    spoilt = _slip(text, dice)
    if len(text) > 8 and dice.happens(0.3):
        spoilt = _slip(spoilt, dice)
    return spoilt if spoilt != text else _swapped(text, dice)


def _slip(text: str, dice: Dice) -> str:
    places = [place for place, character in enumerate(text) if character in _SOUNDS]
    if places and dice.happens(0.7):
        place = dice.one(places)
        return text[:place] + dice.one(_SOUNDS[text[place]]) + text[place + 1 :]
    long = [run.span() for run in _RUN.finditer(text) if run.end() - run.start() >= 4]
    if long and dice.happens(0.5):
        start, end = dice.one(long)
        place = start + 1 + dice.below(end - start - 2)
        return text[:place] + text[place + 1 :]
    return _swapped(text, dice)


def _swapped(text: str, dice: Dice) -> str:
    pairs = [
        place
        for run in _RUN.finditer(text)
        for place in range(run.start(), run.end() - 1)
        if text[place] != text[place + 1]
    ]
    if not pairs:  # one character, or 宝宝: its key was hit once too often
        place = _RUN.search(text).start()  # type: ignore[union-attr]
        return text[:place] + text[place] + text[place:]
    place = dice.one(pairs)
    return text[:place] + text[place + 1] + text[place] + text[place + 2 :]
