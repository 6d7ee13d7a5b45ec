//! Element-wise ops: activations, gated activations, sums.

use super::output::Output;
use super::pool::Pool;
use super::simd::{Kernel, Simd, dispatch, math};

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// `x (1 + erf(x / sqrt 2)) / 2`, exact.
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// `out = f(x)`, element by element; any shape.
pub fn activation(pool: &Pool, function: Activation, x: &[f32], out: &mut [f32]) {
    check("activation", "x", x.len(), out.len());
    run(pool, Op::Activate(function, x), out);
}

/// `out = f(gate) * up`, element by element: SwiGLU and GeGLU.
pub fn activation_mul(
    pool: &Pool,
    function: Activation,
    gate: &[f32],
    up: &[f32],
    out: &mut [f32],
) {
    check("activation_mul", "gate", gate.len(), out.len());
    check("activation_mul", "up", up.len(), out.len());
    run(pool, Op::ActivateMul(function, gate, up), out);
}

/// `out = a + b`, element by element.
pub fn add(pool: &Pool, a: &[f32], b: &[f32], out: &mut [f32]) {
    check("add", "a", a.len(), out.len());
    check("add", "b", b.len(), out.len());
    run(pool, Op::Add(a, b), out);
}

/// `out += x`, element by element.
pub fn add_assign(pool: &Pool, x: &[f32], out: &mut [f32]) {
    check("add_assign", "x", x.len(), out.len());
    run(pool, Op::AddAssign(x), out);
}

fn check(name: &str, what: &str, len: usize, out: usize) {
    assert!(len == out, "{name}: {what} has {len} elements, out has {out}");
}

#[derive(Clone, Copy)]
enum Op<'a> {
    Activate(Activation, &'a [f32]),
    ActivateMul(Activation, &'a [f32], &'a [f32]),
    Add(&'a [f32], &'a [f32]),
    AddAssign(&'a [f32]),
}

fn run(pool: &Pool, op: Op<'_>, out: &mut [f32]) {
    let cost = if matches!(op, Op::Activate(..) | Op::ActivateMul(..)) { 4 } else { 1 };
    let (num_elements, out) = (out.len(), Output::new(out));
    let isa = pool.isa();
    pool.run_ranges(num_elements, cost, &|first, last| {
        // SAFETY: ranges are disjoint and the pool's instruction set is available.
        unsafe {
            dispatch(isa, Elements { op, out: out.part(first, last), first });
        };
    });
}

/// One task: elements from `first` on, as many as `out` has.
struct Elements<'a> {
    op: Op<'a>,
    out: &'a mut [f32],
    first: usize,
}

impl Kernel for Elements<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Elements { op, out, first } = self;
        let part = |x: &[f32]| x[first..first + out.len()].as_ptr();
        // SAFETY: every operand has the length of `out`; the instruction set is the caller's.
        unsafe {
            match op {
                Op::Activate(function, x) => {
                    let x = part(x);
                    activate::<S, First>(function, x, x, out);
                }
                Op::ActivateMul(function, gate, up) => {
                    let (gate, up) = (part(gate), part(up));
                    activate::<S, Product>(function, gate, up, out);
                }
                Op::Add(a, b) => map::<S, Sum>(part(a), part(b), out),
                Op::AddAssign(x) => {
                    let (x, old) = (part(x), out.as_ptr());
                    map::<S, Sum>(old, x, out);
                }
            }
        }
    }
}

/// A function of two vectors, lane by lane.
///
/// A trait and not a closure: a closure is a function of its own, without the instruction set of
/// the kernel it is passed to, so its intrinsics would become calls.
trait Pairwise {
    /// The value of the function.
    ///
    /// # Safety
    /// The instruction set of `S` must be available.
    unsafe fn of<S: Simd>(x: S::V, y: S::V) -> S::V;
}

macro_rules! pairwise {
    ($name:ident $(<$inner:ident>)?, $set:ident, $x:ident, $y:ident, $value:expr) => {
        struct $name$(<$inner>(std::marker::PhantomData<$inner>))?;

        impl$(<$inner: Pairwise>)? Pairwise for $name$(<$inner>)? {
            #[inline(always)]
            unsafe fn of<$set: Simd>($x: $set::V, $y: $set::V) -> $set::V {
                // SAFETY: as the caller's.
                unsafe { $value }
            }
        }
    };
}

struct First;

impl Pairwise for First {
    #[inline(always)]
    unsafe fn of<S: Simd>(x: S::V, _: S::V) -> S::V {
        x
    }
}

pairwise!(Product, S, x, y, S::mul(x, y));
pairwise!(Sum, S, x, y, S::add(x, y));
pairwise!(Silu<C>, S, x, y, C::of::<S>(math::silu::<S>(x), y));
pairwise!(Gelu<C>, S, x, y, C::of::<S>(math::gelu::<S>(x), y));
pairwise!(GeluTanh<C>, S, x, y, C::of::<S>(math::gelu_tanh::<S>(x), y));
pairwise!(Relu<C>, S, x, y, C::of::<S>(S::max(S::splat(0.0), x), y));

/// `out = C(f(x), y)`.
#[inline(always)]
unsafe fn activate<S: Simd, C: Pairwise>(
    function: Activation,
    x: *const f32,
    y: *const f32,
    out: &mut [f32],
) {
    // SAFETY: as the caller's.
    unsafe {
        match function {
            Activation::Silu => map::<S, Silu<C>>(x, y, out),
            Activation::Gelu => map::<S, Gelu<C>>(x, y, out),
            Activation::GeluTanh => map::<S, GeluTanh<C>>(x, y, out),
            Activation::Relu => map::<S, Relu<C>>(x, y, out),
        }
    }
}

/// `out = op(a, b)`, lane by lane; an operand may be `out` itself.
#[inline(always)]
unsafe fn map<S: Simd, F: Pairwise>(a: *const f32, b: *const f32, out: &mut [f32]) {
    let (out, size) = (out.as_mut_ptr(), out.len());
    let mut i = 0;
    // SAFETY: indices stay below the length of all three.
    unsafe {
        while i + S::LANES <= size {
            S::store(out.add(i), F::of::<S>(S::load(a.add(i)), S::load(b.add(i))));
            i += S::LANES;
        }
        if i < size {
            let len = size - i;
            let value = F::of::<S>(S::load_partial(a.add(i), len), S::load_partial(b.add(i), len));
            S::store_partial(out.add(i), value, len);
        }
    }
}
