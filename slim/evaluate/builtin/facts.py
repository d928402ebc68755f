"""Tables of facts, written for this project, from which the items of ``slim_facts`` are made.

Each table is one relation. The wrong answers of an item are right answers of other subjects of its table, so a table
holds no subject for which another subject's answer would also do.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """One relation.

    Attributes:
        name: of the relation.
        prompt: what the model reads; ``{}`` stands for the subject, the answer follows after a space.
        facts: ``subject: answer`` pairs, separated by semicolons.
    """

    name: str
    prompt: str
    facts: str

    @property
    def pairs(self) -> dict[str, str]:
        """Answers by subject."""
        entries = (entry.split(":") for entry in " ".join(self.facts.split()).split(";"))
        return {subject.strip(): answer.strip() for subject, answer in entries}


TABLES = (
    Table(
        "capital",
        "The capital city of {} is",
        """France: Paris; Germany: Berlin; Italy: Rome; Spain: Madrid; Portugal: Lisbon; Austria: Vienna; Greece: Athens;
        Poland: Warsaw; Hungary: Budapest; Sweden: Stockholm; Norway: Oslo; Finland: Helsinki; Denmark: Copenhagen;
        Ireland: Dublin; Belgium: Brussels; Romania: Bucharest; Bulgaria: Sofia; Serbia: Belgrade; Croatia: Zagreb;
        Ukraine: Kyiv; Russia: Moscow; Turkey: Ankara; Egypt: Cairo; Kenya: Nairobi; Ethiopia: Addis Ababa; Ghana: Accra;
        Senegal: Dakar; Morocco: Rabat; Tunisia: Tunis; Algeria: Algiers; Libya: Tripoli; Iraq: Baghdad; Iran: Tehran;
        Syria: Damascus; Lebanon: Beirut; Jordan: Amman; Saudi Arabia: Riyadh; Afghanistan: Kabul; Pakistan: Islamabad;
        India: New Delhi; Nepal: Kathmandu; Bangladesh: Dhaka; Thailand: Bangkok; Vietnam: Hanoi; Malaysia: Kuala Lumpur;
        Indonesia: Jakarta; China: Beijing; Mongolia: Ulaanbaatar; Japan: Tokyo; Australia: Canberra;
        New Zealand: Wellington; Canada: Ottawa; Cuba: Havana; Jamaica: Kingston; Peru: Lima; Chile: Santiago;
        Argentina: Buenos Aires; Uruguay: Montevideo; Colombia: Bogota; Venezuela: Caracas; Ecuador: Quito""",
    ),
    Table(
        "country_of_city",
        "The city of {} is in the country of",
        """Barcelona: Spain; Milan: Italy; Munich: Germany; Lyon: France; Manchester: England; Glasgow: Scotland;
        Porto: Portugal; Salzburg: Austria; Zurich: Switzerland; Rotterdam: the Netherlands; Antwerp: Belgium;
        Krakow: Poland; Gothenburg: Sweden; Bergen: Norway; Thessaloniki: Greece; Istanbul: Turkey; Odessa: Ukraine;
        Alexandria: Egypt; Casablanca: Morocco; Lagos: Nigeria; Mombasa: Kenya; Cape Town: South Africa; Mumbai: India;
        Karachi: Pakistan; Shanghai: China; Osaka: Japan; Busan: South Korea; Manila: the Philippines; Sydney: Australia;
        Auckland: New Zealand; Toronto: Canada; Chicago: the United States; Cancun: Mexico; Sao Paulo: Brazil;
        Medellin: Colombia; Cusco: Peru""",
    ),
    Table(
        "continent",
        "On a map of the world, {} lies on the continent of",
        """France: Europe; Germany: Europe; Poland: Europe; Sweden: Europe; Portugal: Europe; Austria: Europe; India: Asia;
        China: Asia; Japan: Asia; Thailand: Asia; Vietnam: Asia; Nepal: Asia; Mongolia: Asia; Iran: Asia; Kenya: Africa;
        Nigeria: Africa; Ghana: Africa; Ethiopia: Africa; Morocco: Africa; Uganda: Africa; Zambia: Africa;
        Brazil: South America; Peru: South America; Chile: South America; Argentina: South America;
        Bolivia: South America; Canada: North America; Mexico: North America; Guatemala: North America""",
    ),
    Table(
        "currency",
        "In {}, people pay with a currency called the",
        """Japan: yen; India: rupee; China: yuan; Russia: ruble; the United Kingdom: pound; Switzerland: franc;
        Sweden: krona; Denmark: krone; Poland: zloty; Turkey: lira; Mexico: peso; Brazil: real; Thailand: baht;
        South Korea: won; Israel: shekel; South Africa: rand; Germany: euro; Canada: dollar; Vietnam: dong;
        Hungary: forint; Nigeria: naira; Saudi Arabia: riyal; Kuwait: dinar; Malaysia: ringgit""",
    ),
    Table(
        "language",
        "Most people in {} speak",
        """Brazil: Portuguese; Mexico: Spanish; Austria: German; France: French; Australia: English; Egypt: Arabic;
        Italy: Italian; Japan: Japanese; China: Chinese; Russia: Russian; Greece: Greek; Turkey: Turkish; Iran: Persian;
        Poland: Polish; Sweden: Swedish; Denmark: Danish; Finland: Finnish; Hungary: Hungarian; Thailand: Thai;
        Vietnam: Vietnamese; Argentina: Spanish; Peru: Spanish; Portugal: Portuguese; Iraq: Arabic; Morocco: Arabic;
        New Zealand: English; Israel: Hebrew; Bangladesh: Bengali; South Korea: Korean; Romania: Romanian""",
    ),
    Table(
        "symbol",
        "In chemistry, the symbol for the element {} is",
        """hydrogen: H; helium: He; lithium: Li; carbon: C; nitrogen: N; oxygen: O; fluorine: F; neon: Ne; sodium: Na;
        magnesium: Mg; aluminium: Al; silicon: Si; phosphorus: P; sulfur: S; chlorine: Cl; argon: Ar; potassium: K;
        calcium: Ca; titanium: Ti; chromium: Cr; manganese: Mn; iron: Fe; cobalt: Co; nickel: Ni; copper: Cu; zinc: Zn;
        arsenic: As; bromine: Br; silver: Ag; tin: Sn; iodine: I; barium: Ba; tungsten: W; platinum: Pt; gold: Au;
        mercury: Hg; lead: Pb; radium: Ra; uranium: U""",
    ),
    Table(
        "animal_class",
        "Biologists place the {} among the",
        """sparrow: birds; eagle: birds; penguin: birds; owl: birds; parrot: birds; ostrich: birds; dog: mammals;
        whale: mammals; bat: mammals; elephant: mammals; dolphin: mammals; kangaroo: mammals; horse: mammals;
        salmon: fish; shark: fish; tuna: fish; cod: fish; trout: fish; eel: fish; snake: reptiles; lizard: reptiles;
        crocodile: reptiles; turtle: reptiles; chameleon: reptiles; frog: amphibians; toad: amphibians; newt: amphibians;
        salamander: amphibians; ant: insects; bee: insects; beetle: insects; butterfly: insects; mosquito: insects;
        grasshopper: insects; spider: arachnids; scorpion: arachnids; tick: arachnids; crab: crustaceans;
        lobster: crustaceans; shrimp: crustaceans""",
    ),
    Table(
        "opposite",
        'The word that means the opposite of "{}" is',
        """hot: cold; big: small; fast: slow; rich: poor; hard: soft; light: dark; young: old; wet: dry;
        clean: dirty; full: empty; happy: sad; strong: weak; loud: quiet; open: closed; early: late; deep: shallow;
        wide: narrow; thick: thin; sharp: blunt; sweet: bitter; brave: cowardly; cheap: expensive; easy: difficult;
        near: far; true: false; alive: dead; awake: asleep; guilty: innocent; ancient: modern; rough: smooth;
        tight: loose; generous: stingy; polite: rude; victory: defeat; war: peace; love: hate;
        arrive: depart; accept: refuse; create: destroy; remember: forget; buy: sell; push: pull; laugh: cry;
        increase: decrease; attack: defend; win: lose; friend: enemy; question: answer; entrance: exit; day: night;
        summer: winter; heaven: hell; north: south; maximum: minimum; import: export; ascend: descend""",
    ),
    Table(
        "young",
        "The young of a {} is called a",
        """cat: kitten; dog: puppy; cow: calf; horse: foal; sheep: lamb; goat: kid; bear: cub; duck: duckling;
        goose: gosling; chicken: chick; kangaroo: joey; deer: fawn; pig: piglet; swan: cygnet; frog: tadpole;
        butterfly: caterpillar; hare: leveret""",
    ),
    Table(
        "author",
        "The book {} was written by",
        """Hamlet: William Shakespeare; Don Quixote: Miguel de Cervantes; War and Peace: Leo Tolstoy;
        Crime and Punishment: Fyodor Dostoevsky; Pride and Prejudice: Jane Austen; Oliver Twist: Charles Dickens;
        Moby Dick: Herman Melville; The Odyssey: Homer; The Divine Comedy: Dante Alighieri; Faust: Goethe;
        Les Miserables: Victor Hugo; Madame Bovary: Gustave Flaubert; Frankenstein: Mary Shelley; Dracula: Bram Stoker;
        Ulysses: James Joyce; The Trial: Franz Kafka; Animal Farm: George Orwell; Brave New World: Aldous Huxley;
        The Hobbit: J. R. R. Tolkien; The Great Gatsby: F. Scott Fitzgerald; The Grapes of Wrath: John Steinbeck;
        The Old Man and the Sea: Ernest Hemingway; Jane Eyre: Charlotte Bronte; Wuthering Heights: Emily Bronte;
        Treasure Island: Robert Louis Stevenson; Robinson Crusoe: Daniel Defoe; Gulliver's Travels: Jonathan Swift;
        The Adventures of Tom Sawyer: Mark Twain; Alice's Adventures in Wonderland: Lewis Carroll;
        The Jungle Book: Rudyard Kipling; The Time Machine: H. G. Wells; The Three Musketeers: Alexandre Dumas;
        On the Origin of Species: Charles Darwin; The Little Prince: Antoine de Saint-Exupery""",
    ),
    Table(
        "known_for",
        "In the history of science and invention, {} is connected above all with the name of",
        """the theory of relativity: Albert Einstein; the law of gravity: Isaac Newton; the telephone: Alexander Graham Bell;
        the theory of evolution: Charles Darwin; radium: Marie Curie; penicillin: Alexander Fleming; dynamite: Alfred Nobel;
        the printing press: Johannes Gutenberg; the steam engine: James Watt; the periodic table: Dmitri Mendeleev;
        pasteurization: Louis Pasteur; alternating current: Nikola Tesla; radio waves: Heinrich Hertz;
        the laws of planetary motion: Johannes Kepler; the battery: Alessandro Volta; psychoanalysis: Sigmund Freud;
        the laws of heredity: Gregor Mendel; X-rays: Wilhelm Roentgen; the World Wide Web: Tim Berners-Lee;
        the uncertainty principle: Werner Heisenberg""",
    ),
    Table(
        "state_capital",
        "In the United States, the capital of the state of {} is",
        """California: Sacramento; Texas: Austin; Florida: Tallahassee; New York: Albany; Massachusetts: Boston;
        Georgia: Atlanta; Illinois: Springfield; Ohio: Columbus; Colorado: Denver; Arizona: Phoenix; Nevada: Carson City;
        Oregon: Salem; Washington: Olympia; Minnesota: Saint Paul; Wisconsin: Madison; Michigan: Lansing;
        Tennessee: Nashville; Virginia: Richmond; Maryland: Annapolis; Hawaii: Honolulu; Alaska: Juneau; Maine: Augusta;
        Louisiana: Baton Rouge; Alabama: Montgomery; Kentucky: Frankfort; Iowa: Des Moines; Nebraska: Lincoln;
        Montana: Helena; Idaho: Boise; New Mexico: Santa Fe""",
    ),
    Table(
        "profession",
        "The usual name for a person whose work it is to {} is",
        """bake bread: baker; cut hair: barber; teach children: teacher; fly planes: pilot; grow crops: farmer;
        repair pipes: plumber; put out fires: firefighter; treat sick animals: veterinarian; make clothes: tailor;
        take photographs: photographer; write news stories: journalist; design buildings: architect; sell meat: butcher;
        care for teeth: dentist; sell medicines: pharmacist; work with wood: carpenter; look after library books: librarian;
        catch fish: fisherman; dig for coal: miner; build with bricks: mason; defend people in court: lawyer;
        play music: musician; carve statues: sculptor; drive a taxi: driver; study the stars: astronomer;
        cook meals in a restaurant: chef; forge iron: blacksmith; serve food at tables: waiter""",
    ),
    Table(
        "instrument",
        "In an orchestra, the {} belongs to the family of instruments called",
        """violin: strings; cello: strings; viola: strings; harp: strings; double bass: strings; trumpet: brass;
        trombone: brass; tuba: brass; French horn: brass; flute: woodwinds; clarinet: woodwinds; oboe: woodwinds;
        bassoon: woodwinds; timpani: percussion; snare drum: percussion; cymbals: percussion; triangle: percussion;
        xylophone: percussion""",
    ),
    Table(
        "sides",
        "The number of sides of a {} is",
        """triangle: three; square: four; pentagon: five; hexagon: six; heptagon: seven; octagon: eight; nonagon: nine;
        decagon: ten; dodecagon: twelve""",
    ),
    Table(
        "roman",
        "Written as a Roman numeral, the number {} is",
        """2: II; 3: III; 4: IV; 5: V; 6: VI; 7: VII; 8: VIII; 9: IX; 10: X; 12: XII; 14: XIV; 15: XV; 16: XVI; 19: XIX;
        20: XX; 40: XL; 50: L; 90: XC; 100: C; 500: D; 1000: M""",
    ),
    Table(
        "next_month",
        "In the calendar, the month that comes right after {} is",
        """January: February; February: March; March: April; April: May; May: June; June: July; July: August;
        August: September; September: October; October: November; November: December; December: January""",
    ),
    Table(
        "made_from",
        "The material or plant that {} is made from is",
        """bread: wheat; wine: grapes; cheese: milk; paper: wood; glass: sand; chocolate: cacao; leather: animal skin;
        silk: silkworm cocoons; olive oil: olives; tofu: soybeans; cider: apples; a candle: wax;
        a brick: clay; steel: iron; linen: flax; a car tyre: rubber;
        ketchup: tomatoes""",
    ),
)
