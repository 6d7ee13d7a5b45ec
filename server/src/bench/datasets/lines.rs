//! A file of JSON lines: one request a line, as vLLM's `custom` dataset has them.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::super::error::BenchError;
use super::super::request::{Prompt, Request};
use super::{Form, Made, Maker};

/// What a file of JSON lines leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Custom {
    /// Tokens of an answer; `None` for what each line's `output_tokens` says.
    pub output_len: Option<u32>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    prompt: Option<Written>,
    #[serde(default)]
    messages: Option<Vec<Value>>,
    #[serde(default)]
    output_tokens: Option<u32>,
    /// Seconds from the start of the trace.
    #[serde(default)]
    timestamp: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Ids(Vec<u32>),
}

impl Custom {
    pub(super) fn read(self, path: &Path, maker: &Maker) -> Result<Made, BenchError> {
        let text = std::fs::read_to_string(path).map_err(|error| BenchError::file(path, error))?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let requests: Vec<Request> = lines
            .take(maker.num_prompts)
            .map(|(number, line)| {
                let fail =
                    |why: String| BenchError::file(path, format!("line {}: {why}", number + 1));
                let line: Line =
                    serde_json::from_str(line).map_err(|error| fail(error.to_string()))?;
                self.request(line, maker).map_err(|why| fail(why.to_owned()))
            })
            .collect::<Result<_, _>>()?;
        if requests.is_empty() {
            return Err(BenchError::file(path, "has no lines"));
        }
        Ok(repeated(requests, maker.num_prompts))
    }

    fn request(self, line: Line, maker: &Maker) -> Result<Request, &'static str> {
        let output_len = self.output_len.or(line.output_tokens);
        let output_len = output_len.ok_or("has no output_tokens, and --output-len is not given")?;
        let vocabulary = &maker.vocabulary;
        let (prompt, input_len) = match (line.prompt, line.messages) {
            (Some(Written::Text(text)), None) => {
                let len = vocabulary.count(&text);
                (Prompt::Text(text.into()), len)
            }
            (Some(Written::Ids(_)), None) if maker.form == Form::Text => {
                return Err("prompt: token ids go only to --backend openai");
            }
            (Some(Written::Ids(ids)), None) => {
                let len = ids.len() as u32;
                (Prompt::Ids(ids.into()), len)
            }
            (None, Some(messages)) => {
                let said = messages.iter().filter_map(|message| message["content"].as_str());
                let len = said.map(|text| vocabulary.count(text)).sum();
                (Prompt::Messages(messages.into()), len)
            }
            _ => return Err("must have either prompt or messages"),
        };
        let mut request = Request::new(prompt, input_len, output_len);
        request.timestamp = line.timestamp;
        Ok(request)
    }
}

/// `requests`, from the start again where there are too few of them.
pub(super) fn repeated(requests: Vec<Request>, num: usize) -> Made {
    let has = requests.len();
    let note = (has < num).then(|| {
        format!(
            "the file has {has} prompts and {num} requests are sent: prompts repeat, and a prefix \
             cache will make them cheaper"
        )
    });
    let requests = requests.into_iter().cycle().take(num).collect();
    (requests, note.into_iter().collect())
}
