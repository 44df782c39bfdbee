"""Word lists of the demo grammar, one paragraph of plain text each.

Names are invented or very common. No word is in two name lists, so a single token tells first names,
surnames, towns and companies apart.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words("""
    Adam Agnes Alan Alice Amy Anders Anita Anna Anton Arthur Astrid Barbara Beatrice Bella Ben Bruno
    Carla Carlos Cecilia Clara Colin Dana Daniel David Diana Dora Edgar Edith Elena Eli Ella Emil
    Emma Erik Esther Eva Felix Fiona Frank Frieda Gerald Gina Greta Hanna Harold Hector Heidi Helen
    Henry Hilda Hugo Ian Ida Igor Ines Irene Ivan Jack Jane Jasper Joan Johan Jonas Julia Karin Karl
    Kate Keith Lara Laura Lena Leon Linda Louis Lucy Magnus Maria Martha Max Mia Mona Nadia Nils
    Nina Nora Olga Oscar Otto Paula Peter Petra Ralph Rita Robert Rosa Ruth Samuel Sandra Simon
""")

SURNAMES = _words("""
    Abbott Adler Aldrin Ames Archer Arden Asher Atwood Avery Baker Baldwin Barlow Barrett Becker
    Bellamy Benson Berger Bishop Blake Bolton Bowen Bradley Brandt Brewer Brooks Burke Burton Butler
    Calder Carey Carlson Carver Chandler Clarke Coburn Coleman Conrad Cooper Corbin Craig Crosby
    Dalton Dawson Decker Dixon Dorsey Doyle Draper Dunn Eckert Elliott Emerson Engel Farrell Ferris
    Finch Fischer Fletcher Foster Fowler Frost Fuller Gable Gallagher Garner Gibson Gordon Graves
    Griffin Haas Hale Hammond Hardy Harper Hayes Heller Hendrix Hess Higgins Hobbs Holloway Hooper
    Howell Hughes Hutton Ingram Irving Jarvis Jenkins Jensen Keller Kendall Kerr Kessler Kirby Klein
    Knox Kramer Lambert Larsen Lawson Lindgren Lloyd Lowell Lynch Madsen Maurer Mercer Meyer Miller
    Monroe Morris Moss Murray Nash Nelson Newman Nolan Norton Nygaard Ogden Olsen Osborne Palmer
    Parker Parrish Pearce Perkins Phelps Porter Pratt Quinn Ramsey Reeves Reynolds Rhodes Ritter
    Rossi Sawyer Schultz Sharp Simmons Sloan Snyder Stark Steiner Sutton Tanner Thorne Tucker Turner
    Vance Vaughn Wagner Walsh Weaver Webber Whitaker Wolfe Yates Zeller
""")

TOWN_STEMS = _words("""
    Alderly Amberg Arvika Ashton Bakewell Balmore Barton Belmont Bexley Birchwood Borden Bramley
    Brixham Calverton Camden Carrow Chatham Chester Clayton Corsham Cranford Dalby Danforth Denton
    Dorset Dunmore Eastleigh Edgeware Elmore Everton Fairholm Farnham Felton Fenwick Galway Garfield
    Glenrock Grafton Granville Halden Hamlin Harwich Haslett Hartford Holbrook Hudson Ipswich Jarrow
    Kelso Kenmore Kingsley Lakeview Lancaster Langford Leeds Linwood Ludlow Malden Marlow Melrose
    Merton Milford Monmouth Morley Newbury Northam Oakdale Oldham Orwell Oxley Parkstone Penrith
    Preston Quincy Radley Ramsgate Redmond Ridgeway Rochdale Rosedale Salford Seaton Shelby Sheldon
    Somerset Stafford Stanton Sudbury Thornton Tilbury Truro Upton Verden Wakefield Walden Warwick
    Wexford Whitby Wickham Yarmouth
""")

TOWN_PREFIXES = _words("Lake New Old Port Upper")

COMPANY_STEMS = _words("""
    Acorix Aldena Amtec Arcano Astrion Avalo Axion Balteka Beltor Borealis Brixo Calypto Candor
    Celtra Cirrus Cobalt Corvex Dantek Delphor Domino Dynaco Elara Eltron Emberly Envio Falcor
    Fentix Ferrum Fidelo Galvin Genova Gravix Halcyon Helix Hexa Inkata Intero Jadeco Kappa Kinetra
    Kodena Lumen Luxor Magnet Mantis Medira Meridian Monarch Nexus Nimbus Norvik Novara Oculus
    Olympic Omnia Orbita Orion Paragon Pegasus Pinnacle Polaris Prisma Quantor Quorum Regent Rubicon
    Sagara Saturn Sentra Sigma Silva Solara Sterling Stratos Talos Tempra Terrano Titan Trident
    Ultra Unico Valora Vector Velora Vertex Vista Vulcan Zenith Zephyr Zircon
""")

SECTORS = _words("""
    Airlines Bank Brewing Cement Chemicals Drugs Electronics Energy Foods Glass Insurance Logistics
    Media Mining Motors Oil Paper Retail Shipping Software Steel Telecom Textiles Timber Toys
""")

WEEKDAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")

MONTHS = _words("January February March April May June July August September October November December")

# Groups of workers, worded the same in an item and its summary.
WORKERS = _words("""
    nurses teachers drivers pilots dockers miners bakers cleaners farmers doctors postmen plumbers
    waiters tailors welders janitors librarians electricians firefighters carpenters
""")

FOODS = _words("""
    coffee tea garlic honey ginger olives walnuts almonds yogurt cheese spinach broccoli carrots
    tomatoes beans lentils salmon tuna oats rice berries cherries grapes apples bananas mushrooms
    chocolate pepper onions pumpkin
""")

ILLNESSES = _words("""
    stroke cancer diabetes asthma arthritis migraine dementia obesity anemia insomnia depression flu
    allergies gout bronchitis
""")

# Goods that get stolen.
GOODS = _words("""
    paintings watches bicycles laptops cameras violins carpets coins diamonds jewels statues rifles
    tractors furs telephones televisions stamps vases mirrors lamps
""")

PRODUCTS = _words("""
    cars heaters toasters kettles helmets ladders strollers batteries chargers blenders mowers
    scooters freezers mattresses ovens radios drills tires boilers headphones
""")

CROPS = _words(
    "wheat corn barley potatoes sugar cotton tobacco soybeans peanuts lemons oranges plums wool hops"
)

BUILDINGS = _words("""
    library museum stadium hospital theater school bridge airport harbor market prison cinema palace
    chapel castle garden zoo tunnel
""")

# Professions.
ARTISTS = _words(
    "singer pianist violinist guitarist drummer composer dancer comedian cellist organist rapper conductor"
)

AUTHORS = _words(
    "novelist poet historian journalist playwright biologist chemist physicist architect sculptor painter"
)

MOODS = _words("""
    happy proud worried angry relieved surprised shocked pleased upset nervous calm grateful
    confident cautious tired
""")

# Sentences that never belong in a summary. Their names and numbers differ from the event's.
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
