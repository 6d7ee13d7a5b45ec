//! From tokens to a checked tree: precedence by climbing, types on the way.

use super::features::Feature;
use super::lexer::{Token, tokens};
use super::tree::{Binary, BinarySign, Call, Function, Node};
use crate::sched::registry::suggestion;
use crate::sched::{PolicyError, SpecText};

/// What an expression yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Number,
    Truth,
}

/// What an expression may speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// One request, and the step.
    Request,
    /// The whole step.
    Step,
}

/// Parts may be nested so deep: more than anybody writes, and little stack.
const MAX_DEPTH: u32 = 64;

/// A part of an expression: what it is, what it yields, where it begins.
struct Part {
    node: Node,
    kind: Kind,
    at: usize,
}

/// Reads a whole text as expressions of `kind` separated by commas.
pub(super) fn parse(
    text: SpecText<'_>,
    kind: Kind,
    subject: Subject,
) -> Result<Vec<Node>, PolicyError> {
    let mut parser = Parser { text, tokens: tokens(text)?, next: 0, depth: 0, subject };
    let mut nodes = Vec::new();
    loop {
        let part = parser.expression()?;
        parser.expect_kind(&part, kind, "this")?;
        nodes.push(part.node);
        match parser.take() {
            (Token::End, _) => return Ok(nodes),
            (Token::Sign(","), _) => {}
            (token, at) => return Err(parser.unexpected(token, at, "an operator")),
        }
    }
}

struct Parser<'a> {
    text: SpecText<'a>,
    tokens: Vec<(Token<'a>, usize)>,
    next: usize,
    depth: u32,
    subject: Subject,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> (Token<'a>, usize) {
        self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn take(&mut self) -> (Token<'a>, usize) {
        self.next += 1;
        self.tokens[(self.next - 1).min(self.tokens.len() - 1)]
    }

    /// Takes the sign, if it is next.
    fn take_sign(&mut self, sign: &str) -> Option<usize> {
        match self.peek() {
            (Token::Sign(found), at) if found == sign => {
                self.next += 1;
                Some(at)
            }
            _ => None,
        }
    }

    fn expect_sign(&mut self, sign: &str) -> Result<(), PolicyError> {
        if self.take_sign(sign).is_some() {
            return Ok(());
        }
        let (token, at) = self.peek();
        Err(self.unexpected(token, at, &format!("{sign:?}")))
    }

    fn unexpected(&self, token: Token<'_>, at: usize, expected: &str) -> PolicyError {
        let found = match token {
            Token::Number(number) => format!("the number {number}"),
            Token::Name(name) => format!("{name:?}"),
            Token::Sign(sign) => format!("{sign:?}"),
            Token::End => "the end".to_owned(),
        };
        self.text.error_at(at, format!("here should be {expected}, not {found}"))
    }

    fn expect_kind(&self, part: &Part, kind: Kind, who: &str) -> Result<(), PolicyError> {
        let message = match (kind, part.kind) {
            (Kind::Number, Kind::Truth) => {
                "needs a number, and this is true or false; write if(CONDITION, A, B)"
            }
            (Kind::Truth, Kind::Number) => {
                "needs a condition, and this is a number; compare it with something"
            }
            _ => return Ok(()),
        };
        let who = if who == "this" { "this place" } else { who };
        Err(self.text.error_at(part.at, format!("{who} {message}")))
    }

    /// `CONDITION ? A : B`, or less.
    fn expression(&mut self) -> Result<Part, PolicyError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let at = self.peek().1;
            let message = format!("parts are nested more than {MAX_DEPTH} deep");
            return Err(self.text.error_at(at, message));
        }
        let condition = self.operators(0)?;
        let part = if self.take_sign("?").is_some() {
            let yes = self.expression()?;
            self.expect_sign(":")?;
            let no = self.expression()?;
            self.select(condition, yes, no)?
        } else {
            condition
        };
        self.depth -= 1;
        Ok(part)
    }

    fn select(&self, condition: Part, yes: Part, no: Part) -> Result<Part, PolicyError> {
        self.expect_kind(&condition, Kind::Truth, "the choice")?;
        self.expect_kind(&no, yes.kind, "the other side of the choice")?;
        let (at, kind) = (condition.at, yes.kind);
        let node = Node::Select(Box::new((condition.node, yes.node, no.node)));
        Ok(Part { node, kind, at })
    }

    /// Operands joined by operators that bind at least as strongly as `least`.
    fn operators(&mut self, least: u8) -> Result<Part, PolicyError> {
        let mut left = self.unary()?;
        loop {
            let (Token::Sign(sign), at) = self.peek() else { return Ok(left) };
            let Some((strength, operator)) = Operator::of(sign) else { return Ok(left) };
            if strength < least {
                return Ok(left);
            }
            self.next += 1;
            let right = self.operators(strength + 1)?;
            left = self.join(operator, at, left, right)?;
        }
    }

    fn join(
        &self,
        operator: Operator,
        at: usize,
        left: Part,
        right: Part,
    ) -> Result<Part, PolicyError> {
        let (needed, kind, sign) = match operator {
            Operator::And => (Kind::Truth, Kind::Truth, "&&"),
            Operator::Or => (Kind::Truth, Kind::Truth, "||"),
            Operator::Binary(sign) if sign.is_arithmetic() => {
                (Kind::Number, Kind::Number, sign.text())
            }
            Operator::Binary(sign) => (Kind::Number, Kind::Truth, sign.text()),
        };
        self.expect_kind(&left, needed, sign)?;
        self.expect_kind(&right, needed, sign)?;
        let start = left.at;
        let (left, right) = (left.node, right.node);
        let node = match operator {
            Operator::And => Node::And(Box::new((left, right))),
            Operator::Or => Node::Or(Box::new((left, right))),
            Operator::Binary(sign) => Node::Binary(Box::new(Binary { sign, left, right, at })),
        };
        Ok(Part { node, kind, at: start })
    }

    fn unary(&mut self) -> Result<Part, PolicyError> {
        // In a loop, so that a row of signs takes no stack.
        let mut signs = Vec::new();
        while let (Token::Sign(sign @ ("-" | "!")), at) = self.peek() {
            let is_negation = sign == "-";
            signs.push((is_negation, at));
            self.next += 1;
            if signs.len() > MAX_DEPTH as usize {
                return Err(self.text.error_at(at, "there are too many signs in a row"));
            }
        }
        let mut part = self.primary()?;
        for (is_negation, at) in signs.into_iter().rev() {
            let (kind, sign) = if is_negation { (Kind::Number, "-") } else { (Kind::Truth, "!") };
            self.expect_kind(&part, kind, sign)?;
            let inner = Box::new(part.node);
            let node = if is_negation { Node::Negate(inner) } else { Node::Not(inner) };
            part = Part { node, kind, at };
        }
        Ok(part)
    }

    fn primary(&mut self) -> Result<Part, PolicyError> {
        let number = |value, at| Part { node: Node::Constant(value), kind: Kind::Number, at };
        let truth = |value, at| Part { node: Node::Constant(value), kind: Kind::Truth, at };
        match self.take() {
            (Token::Number(value), at) => Ok(number(value, at)),
            (Token::Sign("("), at) => {
                let part = self.expression()?;
                self.expect_sign(")")?;
                Ok(Part { at, ..part })
            }
            (Token::Name("true"), at) => Ok(truth(1.0, at)),
            (Token::Name("false"), at) => Ok(truth(0.0, at)),
            (Token::Name("inf"), at) => Ok(number(f64::INFINITY, at)),
            (Token::Name(name), at) => match self.take_sign("(") {
                Some(_) => self.call(name, at),
                None => self.feature(name, at),
            },
            (token, at) => Err(self.unexpected(token, at, "a number, a name or \"(\"")),
        }
    }

    fn feature(&self, name: &str, at: usize) -> Result<Part, PolicyError> {
        let Some(feature) = Feature::find(name) else {
            return Err(self.text.error_at(at, unknown_name(name)));
        };
        if self.subject == Subject::Step && feature.is_of_request() {
            let message = format!("{name} is of one request, and this is about the whole step");
            return Err(self.text.error_at(at, message));
        }
        Ok(Part { node: Node::Feature(feature), kind: Kind::Number, at })
    }

    /// A call of `name`, whose bracket has been opened.
    fn call(&mut self, name: &str, at: usize) -> Result<Part, PolicyError> {
        let mut arguments = Vec::new();
        if self.take_sign(")").is_none() {
            loop {
                arguments.push(self.expression()?);
                if self.take_sign(",").is_none() {
                    break;
                }
            }
            self.expect_sign(")")?;
        }
        let fail = |message| Err(self.text.error_at(at, message));
        if name == "if" {
            return match <[Part; 3]>::try_from(arguments) {
                Ok([condition, yes, no]) => Ok(Part { at, ..self.select(condition, yes, no)? }),
                Err(given) => fail(format!("if takes 3 arguments, not {}", given.len())),
            };
        }
        let Some(function) = Function::ALL.into_iter().find(|function| function.name() == name)
        else {
            let mut names: Vec<_> = Function::ALL.iter().map(|function| function.name()).collect();
            names.push("if");
            let hint = suggestion(name, &names);
            let names = names.join(", ");
            return fail(format!("there is no function {name:?}{hint}; there are {names}"));
        };
        let (least, most) = function.num_arguments();
        if !(least..=most).contains(&arguments.len()) {
            let limit =
                if least == most { least.to_string() } else { format!("{least} to {most}") };
            return fail(format!("{name} takes {limit} arguments, not {}", arguments.len()));
        }
        for argument in &arguments {
            self.expect_kind(argument, Kind::Number, name)?;
        }
        let arguments = arguments.into_iter().map(|part| part.node).collect();
        let node = Node::Call(Box::new(Call { function, arguments, at }));
        Ok(Part { node, kind: Kind::Number, at })
    }
}

fn unknown_name(name: &str) -> String {
    let names: Vec<&str> = Feature::ALL.iter().map(|feature| feature.name).collect();
    let hint = suggestion(name, &names);
    format!("there is no feature {name:?}{hint}; there are {}", names.join(", "))
}

#[derive(Clone, Copy)]
enum Operator {
    And,
    Or,
    Binary(BinarySign),
}

impl Operator {
    /// How strongly a sign binds, and what it does.
    fn of(sign: &str) -> Option<(u8, Self)> {
        use BinarySign as B;
        Some(match sign {
            "||" => (1, Self::Or),
            "&&" => (2, Self::And),
            "==" => (3, Self::Binary(B::Equal)),
            "!=" => (3, Self::Binary(B::NotEqual)),
            "<" => (4, Self::Binary(B::Less)),
            "<=" => (4, Self::Binary(B::LessOrEqual)),
            ">" => (4, Self::Binary(B::Greater)),
            ">=" => (4, Self::Binary(B::GreaterOrEqual)),
            "+" => (5, Self::Binary(B::Add)),
            "-" => (5, Self::Binary(B::Subtract)),
            "*" => (6, Self::Binary(B::Multiply)),
            "/" => (6, Self::Binary(B::Divide)),
            "%" => (6, Self::Binary(B::Remainder)),
            _ => return None,
        })
    }
}
