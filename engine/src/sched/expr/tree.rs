//! An expression as a tree, and its value.
//!
//! Everything is an `f64`: false is 0, true is 1, and what does not exist is NaN, which passes
//! through everything that needs it. The parser has checked the types.

use super::features::{Feature, Scope};

/// A checked expression.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Constant(f64),
    Feature(Feature),
    Negate(Box<Self>),
    Not(Box<Self>),
    Binary(Box<Binary>),
    And(Box<(Self, Self)>),
    Or(Box<(Self, Self)>),
    Select(Box<(Self, Self, Self)>),
    Call(Box<Call>),
}

#[derive(Clone, Debug)]
pub(super) struct Binary {
    pub(super) sign: BinarySign,
    pub(super) left: Node,
    pub(super) right: Node,
    /// Byte of the sign within its text, to point at.
    pub(super) at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BinarySign {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) function: Function,
    pub(super) arguments: Vec<Node>,
    pub(super) at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Min,
    Max,
    Abs,
    Sqrt,
    Log,
    Exp,
    Floor,
    Clamp,
}

impl Node {
    /// The value over `scope`; NaN where there is none.
    pub(super) fn value(&self, scope: &Scope<'_>) -> f64 {
        match self {
            Self::Constant(value) => *value,
            Self::Feature(feature) => feature.value(scope),
            Self::Negate(inner) => -inner.value(scope),
            Self::Not(inner) => 1.0 - inner.value(scope),
            Self::Binary(binary) => {
                binary.sign.apply(binary.left.value(scope), binary.right.value(scope))
            }
            Self::And(sides) => match sides.0.value(scope) {
                1.0 => sides.1.value(scope),
                left => left,
            },
            Self::Or(sides) => match sides.0.value(scope) {
                0.0 => sides.1.value(scope),
                left => left,
            },
            Self::Select(parts) => match parts.0.value(scope) {
                0.0 => parts.2.value(scope),
                1.0 => parts.1.value(scope),
                undefined => undefined,
            },
            Self::Call(call) => call.value(scope),
        }
    }

    /// Calls `see` with all features in it.
    pub(super) fn features(&self, see: &mut dyn FnMut(Feature)) {
        if let Self::Feature(feature) = self {
            see(*feature);
        }
        for child in self.children() {
            child.features(see);
        }
    }

    /// Where the value over `scope` gets lost: the innermost place with no value whose parts have
    /// one, and how that reads.
    pub(super) fn undefined(&self, scope: &Scope<'_>) -> Option<(usize, String)> {
        if !self.value(scope).is_nan() {
            return None;
        }
        let inner = self.children().into_iter().find_map(|child| child.undefined(scope));
        inner.or_else(|| match self {
            Self::Binary(binary) => {
                let (left, right) = (binary.left.value(scope), binary.right.value(scope));
                Some((binary.at, format!("{left} {} {right}", binary.sign.text())))
            }
            Self::Call(call) => {
                let values: Vec<String> =
                    call.arguments.iter().map(|node| node.value(scope).to_string()).collect();
                Some((call.at, format!("{}({})", call.function.name(), values.join(", "))))
            }
            _ => None,
        })
    }

    fn children(&self) -> Vec<&Self> {
        match self {
            Self::Constant(_) | Self::Feature(_) => vec![],
            Self::Negate(inner) | Self::Not(inner) => vec![inner],
            Self::Binary(binary) => vec![&binary.left, &binary.right],
            Self::And(sides) | Self::Or(sides) => vec![&sides.0, &sides.1],
            Self::Select(parts) => vec![&parts.0, &parts.1, &parts.2],
            Self::Call(call) => call.arguments.iter().collect(),
        }
    }
}

impl BinarySign {
    /// How it is written.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Equal => "==",
            Self::NotEqual => "!=",
        }
    }

    /// Whether it makes a number of numbers; else it compares.
    pub(super) fn is_arithmetic(self) -> bool {
        use BinarySign::{Add, Divide, Multiply, Remainder, Subtract};
        matches!(self, Add | Subtract | Multiply | Divide | Remainder)
    }

    fn apply(self, left: f64, right: f64) -> f64 {
        match self {
            Self::Add => left + right,
            Self::Subtract => left - right,
            Self::Multiply => left * right,
            Self::Divide if right == 0.0 => f64::NAN,
            Self::Divide => left / right,
            Self::Remainder => left % right,
            _ if left.is_nan() || right.is_nan() => f64::NAN,
            Self::Less => truth(left < right),
            Self::LessOrEqual => truth(left <= right),
            Self::Greater => truth(left > right),
            Self::GreaterOrEqual => truth(left >= right),
            Self::Equal => truth(is_equal(left, right)),
            Self::NotEqual => 1.0 - Self::Equal.apply(left, right),
        }
    }
}

#[expect(clippy::float_cmp, reason = "it is what == says")]
fn is_equal(left: f64, right: f64) -> bool {
    left == right
}

fn truth(is_true: bool) -> f64 {
    f64::from(u8::from(is_true))
}

impl Function {
    pub(super) const ALL: [Self; 8] = [
        Self::Min,
        Self::Max,
        Self::Abs,
        Self::Sqrt,
        Self::Log,
        Self::Exp,
        Self::Floor,
        Self::Clamp,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
            Self::Abs => "abs",
            Self::Sqrt => "sqrt",
            Self::Log => "log",
            Self::Exp => "exp",
            Self::Floor => "floor",
            Self::Clamp => "clamp",
        }
    }

    /// The fewest and the most arguments.
    pub(super) fn num_arguments(self) -> (usize, usize) {
        match self {
            Self::Min | Self::Max => (2, 8),
            Self::Clamp => (3, 3),
            _ => (1, 1),
        }
    }
}

impl Call {
    fn value(&self, scope: &Scope<'_>) -> f64 {
        let [first, rest @ ..] = self.arguments.as_slice() else { return f64::NAN };
        let first = first.value(scope);
        let mut rest = rest.iter().map(|node| node.value(scope));
        match self.function {
            Function::Min => rest.fold(first, lesser),
            Function::Max => rest.fold(first, |most, value| -lesser(-most, -value)),
            Function::Abs => first.abs(),
            Function::Sqrt => first.sqrt(),
            Function::Log if first <= 0.0 => f64::NAN,
            Function::Log => first.ln(),
            Function::Exp => first.exp(),
            Function::Floor => first.floor(),
            Function::Clamp => match (rest.next(), rest.next()) {
                (Some(low), Some(high)) if low <= high => -lesser(-lesser(first, high), -low),
                _ => f64::NAN,
            },
        }
    }
}

/// The lesser of two; none where one does not exist.
fn lesser(left: f64, right: f64) -> f64 {
    if left.is_nan() || left < right { left } else { right }
}
