"""What folio-tiny knows about Folio and about inference, in English and Japanese.

Every sentence here is written for this project; `data.py` multiplies them with question forms. The
first sentence of an answer must stand alone: under "answer briefly" it is the whole answer.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    """A term with its names, what it is and why it is useful, in both languages.

    A right "what" answer holds all `keywords` (or `keywords_ja`), whatever the case.
    """

    names: tuple[str, ...]
    what: str
    why: str
    names_ja: tuple[str, ...]
    what_ja: str
    why_ja: str
    keywords: tuple[str, ...]
    keywords_ja: tuple[str, ...]


@dataclass(frozen=True)
class Faq:
    """One fixed question in several wordings, with its answer, in both languages."""

    questions: tuple[str, ...]
    answer: str
    questions_ja: tuple[str, ...]
    answer_ja: str
    keywords: tuple[str, ...]


TOPICS = (
    Topic(
        ("PagedAttention", "paged attention", "Paged Attention"),
        "PagedAttention keeps the keys and values of each sequence in small blocks of fixed size "
        "instead of one long buffer. "
        "A block table maps token positions to blocks, so memory is handed out on demand and "
        "almost none is wasted. "
        "Sequences can also share blocks.",
        "PagedAttention wastes almost no memory. More sequences fit at once, so the throughput "
        "is higher.",
        ("PagedAttention", "ページドアテンション"),
        "PagedAttentionは、各シーケンスのキーと値を固定サイズの小さなブロックに分けて保存する仕組みです。"
        "ブロックテーブルが位置とブロックを対応させるので、メモリの無駄がほとんどありません。",
        "メモリの無駄がほとんどないからです。より多くのシーケンスを同時に処理できます。",
        ("block", "memory"),
        ("ブロック", "メモリ"),
    ),
    Topic(
        ("a KV cache", "the KV cache", "KV cache", "the key-value cache"),
        "A KV cache stores the attention keys and values of tokens that were already computed. "
        "Each new token reads them instead of computing them again, which makes generation fast.",
        "Without a KV cache every new token would recompute the whole text. With it, each step "
        "only computes the new token.",
        ("KVキャッシュ", "キーバリューキャッシュ"),
        "KVキャッシュは、計算済みのトークンのキーと値を保存しておく場所です。新しいトークンはそれを読むだけなので、生成が速くなります。",
        "KVキャッシュがないと、毎回すべての文章を計算し直すことになります。",
        ("keys and values", "token"),
        ("キーと値", "トークン"),
    ),
    Topic(
        ("prefix caching", "prefix cache", "the prefix cache"),
        "Prefix caching reuses the KV blocks of a prompt beginning that was computed before. "
        "Requests with the same system prompt or chat history skip that work and answer sooner.",
        "Prefix caching saves work when many prompts start alike. The first token then arrives "
        "much sooner.",
        ("プレフィックスキャッシュ", "プレフィックスキャッシング"),
        "プレフィックスキャッシュは、以前に計算したプロンプトの先頭のKVブロックを再利用する仕組みです。同じ書き出しの要求は、より早く答えが返ります。",
        "同じ書き出しのプロンプトが多いとき、計算を省けるからです。",
        ("reuse", "prompt"),
        ("再利用", "プロンプト"),
    ),
    Topic(
        ("continuous batching", "a continuous batch", "in-flight batching"),
        "Continuous batching forms a new batch at every step. "
        "Finished sequences leave and waiting ones join at once, so the device never idles until "
        "the slowest request ends.",
        "Continuous batching keeps the device busy. Short requests do not wait for long ones, so "
        "throughput rises and latency falls.",
        ("連続バッチング", "コンティニュアスバッチング"),
        "連続バッチングは、ステップごとにバッチを組み直す方式です。終わったシーケンスはすぐに抜け、待っているものがすぐに入ります。",
        "デバイスを休ませないからです。短い要求が長い要求を待たずに済みます。",
        ("batch", "step"),
        ("バッチ", "ステップ"),
    ),
    Topic(
        ("chunked prefill", "chunked prefilling"),
        "Chunked prefill splits a long prompt into pieces that are computed over several steps. "
        "Other requests keep generating tokens in the same steps, so a long prompt does not "
        "block them.",
        "Chunked prefill keeps latency even. A long prompt no longer makes every other user wait.",
        ("チャンクドプリフィル", "分割プリフィル"),
        "チャンクドプリフィルは、長いプロンプトを小さく分けて数ステップで計算する方式です。その間も他の要求はトークンを生成し続けます。",
        "長いプロンプトが他の利用者を待たせないからです。",
        ("prompt", "step"),
        ("プロンプト", "ステップ"),
    ),
    Topic(
        ("preemption", "preempting a request"),
        "Preemption takes the memory of a running request away when the KV cache is full. "
        "The request goes back to the queue and is computed again later, with the same result.",
        "Preemption lets the engine go on when memory runs out. No request is lost.",
        ("プリエンプション", "横取り"),
        "プリエンプションは、KVキャッシュが足りないときに実行中の要求のメモリを取り上げることです。その要求は列に戻り、あとで同じ結果になるように計算し直されます。",
        "メモリが足りなくても処理を続けられるからです。要求は失われません。",
        ("memory", "queue"),
        ("メモリ", "列"),
    ),
    Topic(
        ("a token", "tokens", "a text token"),
        "A token is a small piece of text, such as a word, a part of a word or a digit. "
        "A language model reads and writes tokens, one number for each piece.",
        "Models compute with numbers. Tokens turn any text into a short list of numbers.",
        ("トークン", "トークンというもの"),
        "トークンは、単語や単語の一部などの小さな文字のまとまりです。言語モデルはトークンを読み、トークンを書きます。",
        "モデルは数で計算するからです。トークンは文章を数の列に変えます。",
        ("piece", "text"),
        ("文字", "モデル"),
    ),
    Topic(
        ("an embedding", "embeddings", "a text embedding"),
        "An embedding is a list of numbers that stands for the meaning of a text. "
        "Texts with similar meanings get vectors that lie close together, which helps search.",
        "Embeddings let a program compare meanings. They are used for search, grouping and "
        "recommendations.",
        ("埋め込み", "エンベディング"),
        "埋め込みは、文章の意味を表す数の並びです。意味の近い文章は近いベクトルになるので、検索に役立ちます。",
        "意味を比べられるからです。検索や分類に使われます。",
        ("numbers", "meaning"),
        ("意味", "数"),
    ),
    Topic(
        ("temperature", "the temperature", "sampling temperature"),
        "Temperature sets how random the sampling is. "
        "At 0 the most likely token is always taken, and higher values make the text more varied.",
        "Temperature lets you choose between steady and surprising answers.",
        ("温度", "サンプリングの温度"),
        "温度は、サンプリングのランダムさを決める値です。0なら常に最も確率の高いトークンを選び、高いほど文章が多様になります。",
        "安定した答えと意外な答えのどちらがよいかを選べるからです。",
        ("random", "token"),
        ("ランダム", "トークン"),
    ),
    Topic(
        ("top-p", "top p", "top-p sampling", "nucleus sampling"),
        "Top-p sampling keeps the smallest set of likely tokens whose probabilities add up to p. "
        "The next token is drawn from that set, so very unlikely tokens never appear.",
        "Top-p removes unlikely tokens but keeps variety where the model is unsure.",
        ("top-p", "top-pサンプリング"),
        "top-pサンプリングは、確率の合計がpになるまで上位のトークンだけを残す方法です。次のトークンはその中から選ばれます。",
        "ありそうもないトークンを除きながら、多様さを保てるからです。",
        ("token", "probabilities"),
        ("確率", "トークン"),
    ),
    Topic(
        ("streaming", "token streaming", "a streamed answer"),
        "Streaming sends each piece of an answer as soon as it is generated. "
        "The reader sees the first words at once instead of waiting for the end.",
        "Streaming makes an answer feel fast, since the first words arrive at once.",
        ("ストリーミング", "ストリーミング出力"),
        "ストリーミングは、答えを生成した順に少しずつ送る方式です。最後まで待たずに最初の言葉が読めます。",
        "最初の言葉がすぐに届くので、速く感じられるからです。",
        ("answer", "generated"),
        ("生成", "答え"),
    ),
    Topic(
        ("a scheduler", "the scheduler", "scheduling"),
        "A scheduler decides at every step which requests run and how many tokens each may "
        "compute. "
        "In Folio one scheduler serves chat and embeddings together.",
        "A good scheduler keeps the device busy and treats every request fairly.",
        ("スケジューラ", "スケジューリング"),
        "スケジューラは、ステップごとにどの要求をどれだけ計算するかを決めます。Folioでは、チャットと埋め込みを一つのスケジューラが扱います。",
        "デバイスを休ませず、どの要求も公平に扱うためです。",
        ("request", "step"),
        ("要求", "ステップ"),
    ),
    Topic(
        ("a language model", "language models", "an LLM", "a large language model"),
        "A language model predicts the next token of a text. "
        "By repeating this step it can write whole answers.",
        "Language models can answer questions, write and translate text.",
        ("言語モデル", "LLM", "大規模言語モデル"),
        "言語モデルは、文章の次のトークンを予測するモデルです。これを繰り返して、答えの全体を書きます。",
        "質問に答えたり、文章を書いたりできるからです。",
        ("next token", "predict"),
        ("次のトークン", "予測"),
    ),
    Topic(
        ("a prompt", "prompts", "a system prompt"),
        "A prompt is the text that is given to a language model. "
        "The model reads it and continues with its answer.",
        "The prompt tells the model what you want. A clear prompt gives a better answer.",
        ("プロンプト", "システムプロンプト"),
        "プロンプトは、言語モデルに与える文章です。モデルはそれを読んで、続きとして答えを書きます。",
        "してほしいことをモデルに伝えるためです。",
        ("text", "model"),
        ("文章", "モデル"),
    ),
    Topic(
        ("throughput", "the throughput"),
        "Throughput is how many tokens or requests a server finishes per second. "
        "Larger batches raise it.",
        "High throughput means that one machine can serve more users.",
        ("スループット", "処理能力"),
        "スループットは、サーバーが一秒間に処理するトークンや要求の数です。バッチが大きいほど上がります。",
        "一台でより多くの利用者に答えられるからです。",
        ("second", "tokens"),
        ("一秒", "トークン"),
    ),
    Topic(
        ("latency", "the latency"),
        "Latency is the time a user waits for an answer. "
        "It is often measured to the first token and between tokens.",
        "Low latency makes a chat feel quick.",
        ("レイテンシ", "遅延"),
        "レイテンシは、利用者が答えを待つ時間です。最初のトークンまでの時間などで測ります。",
        "待ち時間が短いほど、会話が快適になるからです。",
        ("time", "wait"),
        ("時間", "待つ"),
    ),
)

FAQS = (
    Faq(
        ("What is Folio?", "Tell me about Folio.", "What does Folio do?", "Explain Folio.",
            "Can you describe Folio?",
         "What's Folio?", "Folio?", "Give me a short summary of Folio.",
         "What do you know about Folio?",
         "I have never heard of Folio. What is it?", "What kind of software is Folio?",
         "What is Folio used for?"),
        "Folio is an inference engine for language models, written in Rust. "
        "It serves chat and embeddings with continuous batching over one paged KV cache, through "
        "an OpenAI-compatible API.",
        ("Folioとは何ですか?", "Folioって何?", "Folioについて教えてください。", "Folioを説明してください。", "Folioは何をするものですか?",
         "Folioについて教えて", "Folioは何に使いますか?"),
        "Folioは、Rustで書かれた言語モデルの推論エンジンです。連続バッチングとページ化されたKVキャッシュで、チャットと埋め込みを提供します。",
        ("rust", "kv"),
    ),
    Faq(
        ("How do I start the server?", "How can I start Folio?", "How do I run Folio?",
            "How do I serve a model?",
         "What command starts the server?", "How do I launch the Folio server?",
         "Which command serves a model?",
         "I want to start the server.", "How do I use folio serve?", "What does folio serve do?"),
        "Run `folio serve`. The server then listens on port 8000; use `--model` to choose a model.",
        ("サーバーはどうやって起動しますか?", "Folioの起動方法を教えてください。", "サーバーを起動するコマンドは?", "どうやってFolioを動かしますか?",
         "folio serveは何をしますか?"),
        "`folio serve`を実行してください。サーバーはポート8000で待ち受けます。",
        ("folio serve", "8000"),
    ),
    Faq(
        ("Which port does Folio use?", "What is the default port?",
            "What port does the server listen on?",
         "On which port does Folio listen?", "Which port is the API on?",
         "How do I change the port?",
         "Tell me the port of the server.", "What is the port number?"),
        "Folio listens on port 8000. Use `--port` to change it.",
        ("Folioはどのポートを使いますか?", "デフォルトのポートは?", "ポート番号を教えてください。", "ポートを変えるには?", "サーバーのポートは何番ですか?"),
        "Folioはポート8000を使います。`--port`で変えられます。",
        ("8000", "--port"),
    ),
    Faq(
        ("How do I generate text from the command line?", "What does folio generate do?",
            "How do I use folio generate?",
         "Can I generate text without a server?", "Which command generates text?",
         "How can I run one prompt?",
         "How do I try a prompt in the terminal?"),
        "Run `folio generate` with a prompt. It prints the answer in the terminal, without a "
        "server.",
        ("folio generateは何をしますか?", "コマンドラインで文章を生成するには?", "サーバーなしで生成できますか?", "文章を生成するコマンドは?"),
        "`folio generate`にプロンプトを渡してください。サーバーなしで答えが端末に出ます。",
        ("folio generate",),
    ),
    Faq(
        ("How do I embed text?", "What does folio embed do?",
            "How do I compute embeddings with Folio?", "How do I use folio embed?",
         "Which command makes embeddings?", "Can Folio compute embeddings?",
         "Does Folio support embeddings?",
         "How do I get a vector for a text?"),
        "Run `folio embed` with a text, or call the embeddings endpoint of the server. Both give "
        "you one vector per text.",
        ("folio embedは何をしますか?", "Folioで埋め込みを計算するには?", "埋め込みを作るコマンドは?", "Folioは埋め込みに対応していますか?"),
        "`folio embed`に文章を渡すか、サーバーの埋め込みAPIを呼んでください。文章ごとに一つのベクトルが得られます。",
        ("folio embed",),
    ),
    Faq(
        ("Which API does Folio offer?", "What API does Folio have?",
            "Is Folio compatible with OpenAI?",
         "Can I use the OpenAI client with Folio?", "Does Folio have an HTTP API?",
         "How do I call the server?",
         "Does Folio work with OpenAI clients?"),
        "Folio offers an OpenAI-compatible HTTP API for chat, completions and embeddings. "
        "Existing clients work when you change the base URL.",
        ("FolioのAPIは何ですか?", "OpenAIと互換性がありますか?", "OpenAIのクライアントは使えますか?", "どのAPIに対応していますか?"),
        "FolioはOpenAI互換のHTTP APIを提供します。既存のクライアントはURLを変えるだけで使えます。",
        ("openai",),
    ),
    Faq(
        ("What language is Folio written in?", "Which programming language does Folio use?",
            "Is Folio written in Rust?",
         "Does Folio need Python?", "Is Python required?", "In which language is Folio written?"),
        "Folio is written in Rust. It needs no Python at run time.",
        ("Folioは何の言語で書かれていますか?", "FolioはRustで書かれていますか?", "Pythonは必要ですか?", "Folioのプログラミング言語は?"),
        "FolioはRustで書かれています。実行にPythonは要りません。",
        ("rust", "python"),
    ),
    Faq(
        ("Does Folio need a GPU?", "Can Folio run on a CPU?", "Which hardware does Folio support?",
            "Does Folio work without a GPU?",
         "What hardware do I need?", "Does Folio support CUDA?", "Can I run Folio on my laptop?",
         "Does Folio run on NVIDIA GPUs?"),
        "Folio runs on CPUs and on NVIDIA GPUs. It has its own SIMD kernels for the CPU and its "
        "own CUDA kernels for the GPU.",
        ("FolioにGPUは必要ですか?", "CPUで動きますか?", "どのハードウェアで動きますか?", "FolioはCUDAに対応していますか?",
            "ノートパソコンで動きますか?"),
        "FolioはCPUでもNVIDIAのGPUでも動きます。どちらにも専用のカーネルがあります。",
        ("cpu", "gpu"),
    ),
    Faq(
        ("Is Folio deterministic?", "Are the results reproducible?",
            "Does Folio give the same answer twice?",
         "Does batching change the result?", "What is the determinism contract?",
         "Are Folio's results deterministic?",
         "Will I get the same tokens in a larger batch?"),
        "Yes, a greedy or seeded request gives the same tokens every time. Batching, chunking, "
        "preemption and prefix hits do not change them.",
        ("Folioは決定的ですか?", "結果は再現できますか?", "バッチで結果は変わりますか?", "毎回同じ答えになりますか?"),
        "はい、貪欲またはシード付きの要求は毎回同じトークンになります。バッチや分割やプリエンプションでは変わりません。",
        (),
    ),
    Faq(
        ("How does Folio manage memory?", "How is memory organised in Folio?",
            "How does Folio store the KV cache?",
         "Where does Folio keep keys and values?", "How does Folio's memory management work?"),
        "Folio keeps keys and values in a paged KV cache. Blocks are given to sequences on "
        "demand and shared between equal prefixes.",
        ("Folioはメモリをどう管理しますか?", "KVキャッシュはどう保存されますか?", "Folioのメモリ管理を教えてください。"),
        "FolioはページKVキャッシュにキーと値を保存します。ブロックは必要に応じて割り当てられ、同じ先頭は共有されます。",
        ("kv",),
    ),
    Faq(
        ("How fast is Folio?", "Is Folio fast?", "Why is Folio fast?", "What makes Folio fast?",
            "How does Folio get high throughput?"),
        "Folio is built for high throughput. Continuous batching, a paged KV cache and its own "
        "kernels keep the device busy.",
        ("Folioは速いですか?", "Folioはなぜ速いのですか?", "どうして速いのですか?"),
        "Folioは高いスループットのために作られています。連続バッチングと専用カーネルでデバイスを休ませません。",
        ("throughput",),
    ),
    Faq(
        ("Who is Folio for?", "Who uses Folio?", "Who should use Folio?", "Who are Folio's users?",
            "For whom was Folio made?"),
        "Folio is for operators, benchmarkers and researchers. They serve models, measure them "
        "and compare scheduling policies.",
        ("Folioは誰のためのものですか?", "誰がFolioを使いますか?", "Folioの利用者は?"),
        "Folioは、運用者と計測者と研究者のためのものです。",
        ("operators",),
    ),
    Faq(
        ("What does folio sim do?", "Can I simulate a scheduling policy?",
            "How do I use folio sim?", "Is there a simulator?",
         "How can I compare policies?", "Can Folio simulate traffic?"),
        "`folio sim` replays traffic through the real scheduler with a virtual clock. You can "
        "compare policies without a GPU.",
        ("folio simは何をしますか?", "シミュレーターはありますか?", "ポリシーを比べるには?"),
        "`folio sim`は、仮想の時計で本物のスケジューラに通信を流します。GPUなしでポリシーを比べられます。",
        ("folio sim",),
    ),
    Faq(
        ("How do I benchmark Folio?", "What does folio bench do?", "How do I measure throughput?",
            "How can I measure latency?",
         "Is there a benchmark command?", "How do I use folio bench?"),
        "Run `folio bench`. It measures the throughput and the latency of a model or of a "
        "running server.",
        ("folio benchは何をしますか?", "ベンチマークはどうやりますか?", "スループットを測るには?"),
        "`folio bench`を実行してください。スループットとレイテンシを測れます。",
        ("folio bench",),
    ),
    Faq(
        ("Which models are built in?", "What are the built-in models?",
            "What happens without --model?", "Does Folio ship with a model?",
         "Do I have to download a model?", "What models come with Folio?"),
        "Two small models are built in: folio-tiny for chat and folio-tiny-e5 for embeddings. No "
        "download is needed to try them.",
        ("内蔵モデルは何ですか?", "モデルのダウンロードは必要ですか?", "Folioにはモデルが付いていますか?"),
        "小さなモデルが二つ付いています。チャット用のfolio-tinyと、埋め込み用のfolio-tiny-e5です。",
        ("folio-tiny",),
    ),
    Faq(
        ("How do I protect the server?", "How do I set an API key?", "Does Folio support API keys?",
            "How do I add authentication?",
         "Can I protect the API with a key?"),
        "Start the server with `--api-key`. Requests without the key are then refused.",
        ("APIキーはどう設定しますか?", "サーバーを保護するには?", "認証はありますか?"),
        "`--api-key`を付けて起動してください。キーのない要求は拒否されます。",
        ("--api-key",),
    ),
    Faq(
        ("How do I choose a model?", "How do I load my own model?", "Can I use another model?",
            "Which model formats are supported?",
         "How do I use a larger model?", "Can Folio load GGUF files?"),
        "Use `--model` with a directory, a GGUF file or a hub name. Folio reads safetensors and "
        "GGUF checkpoints.",
        ("モデルはどう選びますか?", "自分のモデルを使うには?", "別のモデルは使えますか?"),
        "`--model`にディレクトリ、GGUFファイル、またはハブの名前を渡してください。",
        ("--model",),
    ),
    Faq(
        ("Why did my request wait?", "What does folio explain do?", "How do I use folio explain?",
         "How can I see why a request was slow?", "Can Folio explain its decisions?"),
        "`folio explain` tells you why. It reads the decision log and shows what a request "
        "waited for.",
        ("folio explainは何をしますか?", "要求が待った理由を知るには?", "なぜ要求は待たされたのですか?"),
        "`folio explain`が教えます。決定の記録を読み、要求が何を待っていたかを示します。",
        ("folio explain",),
    ),
)
