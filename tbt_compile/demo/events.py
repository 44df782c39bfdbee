"""The events of the demo's news: templates of news sentences and summaries.

In a template, ``{slot}`` is replaced by a fact of the item and ``[a|b|c]`` by one of the alternatives. An
event has several leads but one summary, in different words: a model has to find the lead among the other
sentences, keep the right facts and reword the rest.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One kind of event: templates of the lead sentence, the summary and the details.

    An item has one of the leads and, if there are any, one of the details, a fact that the summary needs.
    """

    kind: str
    leads: tuple[str, ...]
    summary: str
    details: tuple[str, ...] = ()


# Slots worded differently in item and summary: slot -> word in the summary -> wordings in the item.
LEXICON: dict[str, dict[str, tuple[str, ...]]] = {
    "disaster": {
        "quake": ("earthquake", "tremor"),
        "storm": ("hurricane", "tempest", "gale"),
        "blast": ("explosion", "detonation"),
        "flood": ("flash flood", "wave of muddy water"),
    },
    "crime": {
        "fraud": ("forged checks", "false invoices", "fake passports"),
        "smuggling": ("hidden cigarettes", "illegal cargo"),
        "arson": ("burning cars", "blazes set on purpose"),
        "robbery": ("a raid on a jeweler", "an armed hold-up"),
        "hacking": ("a break-in to computers", "stolen passwords"),
    },
    "banned": {
        "fireworks": ("rockets and firecrackers",),
        "smoking": ("cigarettes and cigars", "tobacco smoke"),
        "alcohol": ("beer and wine", "strong drink"),
        "plastic": ("throwaway bags and cups", "disposable bottles"),
        "gambling": ("slot machines", "betting shops"),
    },
    "weather": {
        "snow": ("drifts of white powder", "a blizzard"),
        "fog": ("thick mist", "a dense haze"),
        "ice": ("a frozen surface", "black frost"),
    },
}

SPORTS = (
    "football",
    "hockey",
    "tennis",
    "handball",
    "rugby",
    "volleyball",
    "basketball",
    "cricket",
    "baseball",
    "polo",
)
VEHICLES = ("buses", "trams", "ferries", "ambulances", "trucks", "planes", "trains", "boats")

EVENTS: tuple[Event, ...] = (
    Event(
        "shares up",
        (
            "shares in {company} [rose|climbed|jumped|advanced] {n} percent on {day}",
            "[investors|traders|buyers] pushed shares in {company} {n} percent higher on {day}",
            "a rally on {day} lifted shares in {company} by {n} percent",
        ),
        "{company} stock gains {n} percent",
    ),
    Event(
        "shares down",
        (
            "shares in {company} [fell|slid|dropped|tumbled] {n} percent on {day}",
            "[investors|traders|sellers] pushed shares in {company} {n} percent lower on {day}",
            "a slump on {day} cost shares in {company} {n} percent of their value",
        ),
        "{company} stock loses {n} percent",
    ),
    Event(
        "appointment",
        (
            "{company} [named|appointed|picked] {person} as [chief executive|new president|next chairman]",
            "{person} will [succeed|replace|follow] {other} as [president|chairman] of {company}",
            "the board of {company} [settled|agreed] on {person} to take the place of {other}",
        ),
        "{person} to lead {company}",
    ),
    Event(
        "resignation",
        (
            "{person} [stepped down|resigned|retired] as [president|chairman] of {company} on {day}",
            "the board of {company} accepted the [resignation|farewell letter] of {person} on {day}",
        ),
        "{person} quits top job at {company}",
    ),
    Event(
        "takeover",
        (
            "{company} [agreed|offered|plans] to [acquire|purchase] {company2} for {n} million dollars",
            "{company2} will be [acquired|taken over|purchased] by {company} for {n} million dollars",
            "the owners of {company2} accepted {n} million dollars from {company}",
        ),
        "{company} buys {company2} for {n} million",
    ),
    Event(
        "layoffs",
        (
            "{company} will [cut|shed|eliminate] {n} [jobs|positions|posts] at its [plant|factory] in {town}",
            "the [plant|factory] of {company} in {town} must do without {n} of its [staff|employees]",
        ),
        "{company} to lay off {n} workers in {town}",
    ),
    Event(
        "recall",
        (
            "{company} asked [owners|customers] to return {product} that [catch fire|break easily|overheat]",
            "{product} [made|sold] by {company} must go back because they [overheat|break easily|catch fire]",
        ),
        "{company} recalls faulty {product}",
    ),
    Event(
        "bankruptcy",
        (
            "{company} [can no longer pay|is unable to pay] its [debts|bills|creditors]",
            "a judge [appointed|named] an administrator for {company} , which [is penniless|owes millions]",
        ),
        "{company} goes bankrupt",
    ),
    Event(
        "order",
        (
            "{company} will [build|supply|deliver] {n} {vehicles} for the city of {town}",
            "the city of {town} [signed a contract|made a deal] with {company} for {n} {vehicles}",
        ),
        "{town} orders {n} {vehicles} from {company}",
    ),
    Event(
        "disaster",
        (
            "a [strong|powerful|violent] {disaster} [hit|struck|shook] {town} [early|late] on {day}",
            "{town} was [hit|struck|shaken] by a [strong|powerful|violent] {disaster} on {day}",
        ),
        "{disaster} injures {n} in {town}",
        (
            "[doctors|officials|rescuers] said {n} [people|residents] were [hurt|wounded]",
            "{n} [people|residents] were [treated|carried away] with [cuts|burns|broken bones]",
        ),
    ),
    Event(
        "fire",
        (
            "the {building} of {town} [burned down|went up in flames|burned to the ground] on {day}",
            "flames [swept through|consumed|gutted] the {building} in {town} on {day}",
        ),
        "fire destroys {building} in {town}",
    ),
    Event(
        "match",
        (
            "{town} [beat|defeated|overcame] {town2} {n} to {m} in the {sport} [final|game] on {day}",
            "{town2} lost {m} to {n} to {town} in the {sport} [final|game] on {day}",
        ),
        "{town} wins {sport} match against {town2}",
    ),
    Event(
        "election",
        (
            "voters in {town} [picked|chose] {person} as their [next|new] mayor",
            "{person} [beat|defeated] {other} in the race for mayor of {town}",
        ),
        "{person} elected mayor of {town}",
    ),
    Event(
        "theft",
        (
            "[thieves|burglars] [took|carried off|made away with] {n} {goods} from the {building} in {town}",
            "{n} {goods} [vanished|disappeared|are missing] from the {building} in {town}",
        ),
        "{n} {goods} stolen from {town} {building}",
    ),
    Event(
        "arrest",
        (
            "police in {town} [arrested|detained|caught] {n} [men|people|suspects] over {crime}",
            "{n} [men|people|suspects] were [arrested|detained|caught] in {town} over {crime}",
        ),
        "{town} police hold {n} for {crime}",
    ),
    Event(
        "good study",
        (
            "[researchers|scientists] in {town} found that {food} [lower|cut|reduce] the risk of {illness}",
            "people who eat {food} are less likely to get {illness} , [researchers|scientists] in {town} say",
        ),
        "study says {food} may prevent {illness}",
    ),
    Event(
        "bad study",
        (
            "[researchers|scientists] in {town} found that {food} [raise|increase] the risk of {illness}",
            "people who eat {food} are more likely to get {illness} , [researchers|scientists] in {town} say",
        ),
        "study says {food} may cause {illness}",
    ),
    Event(
        "strike",
        (
            "{workers} in {town} [walked out|stopped work] on {day} over [wages|long hours|bonus pay]",
            "a dispute over [wages|long hours] made {workers} in {town} [walk out|stop work] on {day}",
        ),
        "{workers} go on strike in {town}",
    ),
    Event(
        "strike over",
        (
            "{workers} in {town} [returned to work|are back at work] after {n} days of [protest|talks]",
            "after {n} days of [protest|talks] {workers} in {town} [returned to work|accepted a deal]",
        ),
        "{workers} end strike in {town}",
    ),
    Event(
        "concert",
        (
            "the {artist} {person} will [play|appear|give a concert] in {town} in {month}",
            "[fans|audiences] in {town} can [hear|see] the {artist} {person} in {month}",
        ),
        "{artist} {person} to perform in {town}",
    ),
    Event(
        "prize",
        (
            "the {author} {person} [received|accepted|was given] [an award|a medal] in {town} on {day}",
            "[an award|a medal] from the city of {town} [honors|went to] the {author} {person}",
        ),
        "{author} {person} wins prize in {town}",
    ),
    Event(
        "death",
        (
            "the {author} {person} [passed away|was found lifeless] on {day}",
            "[friends|relatives] of the {author} {person} [mourned|announced] the loss on {day}",
        ),
        "{author} {person} dies aged {n}",
        (
            "[born|raised] in {other_town} , the {author} lived to the age of {n}",
            "the family gave the age as {n}",
        ),
    ),
    Event(
        "rail",
        (
            "trains between {town} and {town2} will [stand still|not run|be suspended] for {n} days",
            "[repairs|damage to the track] will [stop|halt] trains between {town} and {town2} for {n} days",
        ),
        "no trains from {town} to {town2} for {n} days",
    ),
    Event(
        "good harvest",
        (
            "farmers [around|near] {town} expect [more|much more] {crop} than [usual|last year]",
            "the harvest of {crop} [around|near] {town} will be the [best|largest] in {n} years",
        ),
        "big harvest of {crop} seen near {town}",
    ),
    Event(
        "poor harvest",
        (
            "farmers [around|near] {town} expect [less|much less] {crop} than [usual|last year]",
            "the harvest of {crop} [around|near] {town} will be the [worst|smallest] in {n} years",
        ),
        "poor harvest of {crop} seen near {town}",
    ),
    Event(
        "opening",
        (
            "the first [visitors|guests] [entered|admired] the [modern|finished] {building} of {town}",
            "after {n} years of work the {building} of {town} is [ready|complete]",
        ),
        "{town} opens its new {building}",
    ),
    Event(
        "roads",
        (
            "{weather} [made it impossible|made it unsafe] to drive [around|near] {town} on {day}",
            "drivers [around|near] {town} were [stranded|stuck] on {day} because of {weather}",
        ),
        "{weather} closes roads near {town}",
    ),
    Event(
        "ban",
        (
            "the council of {town} [voted|decided] to forbid {banned} from {month}",
            "from {month} {banned} will be [against the law|a punishable offense] in {town}",
        ),
        "{town} bans {banned}",
    ),
)
