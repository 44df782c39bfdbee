"""Sentences of the demo's news that are beside the point, in the template language of `events`."""

from __future__ import annotations

# Sentences that never belong in a summary. Their names and numbers are other ones than the event's.
ASIDES: tuple[str, ...] = (
    "[neighbor|witness|analyst|lawyer] {person} [said|sounded] {mood} [about the news|afterwards]",
    "[spokesman|spokeswoman] {person} [declined|refused] to [comment|answer questions]",
    "the [governor|minister|bishop] , {person} , was {mood} [about the news|afterwards]",
    "the [weather|sky] in {town} was [warm|cold|rainy|cloudy|sunny|mild] [all week|that morning]",
    "it was the [second|third|fourth|fifth] [such|similar] [case|story|report] in {n} [weeks|months]",
    "[experts|critics|observers] had [expected|predicted|feared] [this|as much] for [weeks|months]",
    "something [similar|comparable] [happened|occurred] in {town} {n} years ago",
    "{person} of the {town} [herald|gazette|tribune|chronicle] broke the story",
    "[further|more|fresh] [details|facts|information] will [follow|be published] on {day}",
    "{company} [declined|refused] to [comment|answer questions]",
    "last {month} {company} moved its [offices|headquarters] to {town}",
    "{town} is [famous|known] for its {crop} and its {building}",
    "[tourism|fishing|forestry|pottery] is the main [trade|industry] in {town}",
    "about {n} [reporters|journalists|onlookers] [waited|gathered] [outside|in the rain]",
    "the [phone|website|switchboard] of {company} was [busy|unreachable] for {n} minutes",
    "in {town} {n} [shops|schools|cafes|restaurants] stayed [open|closed] [as usual|as a precaution]",
)
