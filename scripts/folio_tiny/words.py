"""Word lists for the small skills of folio-tiny: names, capitals, lists, story heroes."""

NAMES = (
    "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Kate Leo Mia Noah Olivia Paul Quinn "
    "Rosa Sam Tina Uma Victor "
    "Wendy Xavier Yuki Zoe Akira Haruto Sakura Ken Aoi Hana Ren Sora Taro Hanako Maria Jose Luis "
    "Ana Pedro Lena Max Nina "
    "Otto Petra Ravi Priya Arjun Mei Lin Wei Chen Ivan Olga Dmitri Fatima Omar Layla Hassan "
    "Amara Kofi Zuri Liam Ella "
    "Lucas Chloe Ethan Ruby Oscar Alice Bob Carol Dan Eve Frank Judy Mallory Peggy Trent Julia "
    "Simon Nora Hugo Elsa Ivy"
).split()
CITIES = (
    "Paris London Tokyo Rome Berlin Madrid Oslo Osaka Kyoto Cairo Lima Delhi Seoul Vienna Dublin "
    "Boston Chicago Sydney "
    "Toronto Lisbon Athens Prague Helsinki Nairobi Hanoi Geneva Milan Munich Porto Sapporo"
).split()
COLOURS = "red blue green yellow orange purple pink brown black white grey".split()
FOODS = (
    "pizza sushi pasta soup rice bread curry salad ramen cheese chocolate cake tacos noodles"
).split()
COUNTRY_CAPITALS = {
    "France": "Paris", "Japan": "Tokyo", "Italy": "Rome", "Germany": "Berlin", "Spain": "Madrid",
    "Norway": "Oslo",
    "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen", "Portugal": "Lisbon",
    "Greece": "Athens",
    "Austria": "Vienna", "Poland": "Warsaw", "Ireland": "Dublin", "Egypt": "Cairo",
    "Kenya": "Nairobi", "India": "New Delhi",
    "China": "Beijing", "South Korea": "Seoul", "Vietnam": "Hanoi", "Thailand": "Bangkok",
    "Australia": "Canberra",
    "Canada": "Ottawa", "Mexico": "Mexico City", "Brazil": "Brasilia", "Argentina": "Buenos Aires",
    "Peru": "Lima",
    "Chile": "Santiago", "the United Kingdom": "London", "the United States": "Washington, D.C.",
    "Hungary": "Budapest",
    "Turkey": "Ankara", "Russia": "Moscow", "Belgium": "Brussels", "the Netherlands": "Amsterdam",
}
CAPITALS_JA = {
    "日本": "東京", "フランス": "パリ", "イタリア": "ローマ", "ドイツ": "ベルリン", "スペイン": "マドリード", "イギリス": "ロンドン",
    "中国": "北京", "韓国": "ソウル", "アメリカ": "ワシントンD.C.", "カナダ": "オタワ", "エジプト": "カイロ", "タイ": "バンコク",
    "ギリシャ": "アテネ", "ロシア": "モスクワ", "インド": "ニューデリー", "ノルウェー": "オスロ",
}
OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("up", "down"), ("fast", "slow"), ("light", "dark"),
    ("happy", "sad"), ("old", "young"),
    ("open", "closed"), ("rich", "poor"), ("full", "empty"), ("hard", "soft"), ("high", "low"),
    ("long", "short"), ("wet", "dry"),
    ("early", "late"), ("loud", "quiet"), ("strong", "weak"), ("left", "right"), ("day", "night"),
    ("true", "false"),
    ("clean", "dirty"), ("near", "far"), ("thick", "thin"), ("wide", "narrow"), ("deep", "shallow"),
    ("heavy", "weightless"),
    ("good", "bad"), ("inside", "outside"), ("first", "last"), ("win", "lose"), ("love", "hate"),
    ("start", "end"),
    ("buy", "sell"), ("push", "pull"), ("yes", "no"), ("on", "off"), ("north", "south"),
    ("east", "west"), ("black", "white"),
    ("sweet", "bitter"),
)
OPPOSITES_JA = (
    ("大きい", "小さい"), ("高い", "低い"), ("長い", "短い"), ("明るい", "暗い"), ("速い", "遅い"), ("暑い", "寒い"),
    ("新しい", "古い"),
    ("強い", "弱い"), ("重い", "軽い"), ("上", "下"), ("右", "左"), ("前", "後ろ"), ("朝", "夜"), ("近い", "遠い"),
    ("多い", "少ない"),
)
THING_COLOURS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "a banana": "yellow",
    "a lemon": "yellow", "blood": "red",
    "a strawberry": "red", "a tomato": "red", "an orange": "orange", "a carrot": "orange",
    "chocolate": "brown", "milk": "white",
    "the sea": "blue", "the night sky": "black", "a flamingo": "pink", "an elephant": "grey",
    "a leaf": "green", "the sun": "yellow",
    "a crow": "black", "an eggplant": "purple", "a lime": "green", "cotton": "white",
    "a fire engine": "red",
}
TRANSLATIONS = {
    "cat": "猫", "dog": "犬", "water": "水", "book": "本", "sea": "海", "mountain": "山", "river": "川",
    "flower": "花", "moon": "月",
    "sun": "太陽", "rain": "雨", "snow": "雪", "fish": "魚", "bird": "鳥", "tree": "木", "car": "車",
    "friend": "友達", "school": "学校",
    "teacher": "先生", "thank you": "ありがとう", "good morning": "おはよう", "hello": "こんにちは",
    "goodbye": "さようなら",
    "red": "赤", "blue": "青", "white": "白", "black": "黒", "tea": "お茶", "rice": "ご飯", "house": "家",
}
CATEGORIES = {
    "fruits": "apple banana orange grape pear peach lemon cherry mango melon".split(),
    "animals": "cat dog horse cow lion tiger bear rabbit fox elephant".split(),
    "colours": "red blue green yellow orange purple pink brown black white".split(),
    "vegetables": "carrot potato onion tomato cabbage spinach pumpkin cucumber".split(),
    "birds": "owl eagle crow swan duck sparrow parrot penguin".split(),
    "countries": "France Japan Italy Germany Spain Norway Egypt India Canada Brazil".split(),
    "cities": "Paris London Tokyo Rome Berlin Madrid Oslo Osaka Cairo Lima".split(),
    "planets": "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split(),
    "instruments": "piano violin guitar flute drum trumpet harp cello".split(),
    "sports": "tennis football swimming running baseball judo golf skiing".split(),
    "drinks": "water tea coffee milk juice cocoa lemonade".split(),
    "trees": "oak pine maple birch willow cedar cherry".split(),
}
CATEGORIES_JA = {
    "果物": ("りんご", "バナナ", "みかん", "ぶどう", "なし", "もも", "いちご"),
    "動物": ("猫", "犬", "馬", "牛", "ライオン", "うさぎ", "くま"),
    "色": ("赤", "青", "緑", "黄", "白", "黒", "紫"), "野菜": ("にんじん", "じゃがいも", "たまねぎ", "トマト", "きゅうり",
        "かぼちゃ"),
    "国": ("日本", "フランス", "イタリア", "ドイツ", "カナダ", "インド"),
}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
DAYS_JA = ("月曜日", "火曜日", "水曜日", "木曜日", "金曜日", "土曜日", "日曜日")
NUMBER_WORDS = {2: "two", 3: "three", 4: "four", 5: "five"}
REPEAT_WORDS = (
    "apple river cloud stone window garden paper silver morning bridge candle forest hello world "
    "folio token block batch queue "
    "seven green quick brown fox jumps over lazy dog please remember this line tomorrow music "
    "train station blue table chair "
    "bright moon falls under every small house I like you and we are here now the a is in on "
    "with some open door night letter"
).split()
REPEAT_WORDS_JA = ("春", "夏", "秋", "冬", "空", "海", "山", "花", "月", "雪", "今日は", "いい", "天気", "です", "ね",
    "電車", "学校", "本", "りんご")
POEM_THINGS = (
    "sea moon rain autumn mountain river wind snow spring sun forest garden night star cloud "
    "rose cat morning city train book "
    "summer winter ocean sky flower tree bird"
).split()
COUPLETS = (
    ("O {x}, so quiet and so bright,", "I think of you by day and night."),
    ("I see the {x}, I hear it sing,", "it tells of every living thing."),
    ("The {x} is near, the {x} is far,", "it shines for me like one small star."),
    ("The {x} is waiting, calm and deep,", "it hums the tired world to sleep."),
    ("You ask for nothing, yet you give", "a gentle song by which we live."),
    ("And when the long day fades away,", "I dream about the {x} and stay."),
    ("So let me rest and let me be,", "a friend of you, as you of me."),
    ("The hours pass, the {x} stays on,", "and greets me with the early dawn."),
)
POEMS_JA = (
    "{x}は静かに光り、\n風はやさしく歌う。\n私は足を止めて、\n遠い日を思い出す。",
    "朝の{x}、夜の{x}、\nいつもそこにある。\n言葉はいらない、\nただ見ていたい。",
)
POEM_THINGS_JA = ("海", "月", "雨", "秋", "山", "川", "風", "雪", "春", "星", "花", "空")
HEROES = (
    "cat dog fox robot dragon girl boy bear rabbit owl mouse pirate wizard knight sailor baker "
    "turtle lion horse bird frog "
    "princess teacher farmer penguin whale squirrel giant king queen"
).split()
UNKNOWN_THINGS = (
    "quantum physics;photosynthesis;the stock market;the French Revolution;black holes;the Roman "
    "Empire;DNA;inflation;opera;chess;"
    "gravity;the human heart;vaccines;electric cars;volcanoes;the Olympic "
    "Games;jazz;democracy;blockchain;tax law;the pyramids;"
    "dinosaurs;economics;philosophy;yoga;relativity;football rules;the moon "
    "landing;penicillin;the periodic table;poker;"
    "climate change;astrology;calculus;the Mona Lisa;the speed of light;a neutron star;the ozone "
    "layer;ballet;origami;cricket;"
    "the Great Wall;a mortgage;insulin;Shakespeare;Mozart;Napoleon;Kubernetes;JavaScript;a "
    "compiler;a database;PostgreSQL"
).split(";")
UNKNOWN_QUESTIONS = (
    "Who is the president of {country}?", "What is the weather in {city} today?",
    "Who won the last game in {city}?",
    "How do I fix my {thing}?", "What is the population of {country}?",
    "Write a Python program for {unknown}.",
    "Who invented {unknown}?", "When was {unknown} discovered?",
    "What is the best hotel in {city}?", "How much does a {thing} cost?",
    "Should I buy a new {thing}?", "What is {unknown}?", "Tell me about {unknown}.",
    "Explain {unknown}.", "How does {unknown} work?",
    "Which film should I watch in {city}?", "What happened in {country} in 1{year}?",
    "Can you book a flight to {city}?",
    "What time is it in {city}?", "Translate this text about {unknown} into French.",
    "What is the history of {country}?",
)
UNKNOWN_QUESTIONS_JA = (
    "{city}の天気は?", "{country}の大統領は誰ですか?", "{country}の人口は?", "{city}までの飛行機を予約して",
    "{city}のおすすめのホテルは?",
    "{country}の歴史を教えてください。", "{city}は今何時ですか?",
)
BROKEN_THINGS = (
    "car bike phone computer roof printer watch fridge camera guitar sink window door lamp"
).split()
