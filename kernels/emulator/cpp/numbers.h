// 16-bit numbers with exact rounding to nearest even, and CUDA's arithmetic and bit functions.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "vectors.h"

template <class To, class From> inline To bits_as(From x) {
    static_assert(sizeof(To) == sizeof(From), "a cast of bits keeps their number");
    To y;
    memcpy(&y, &x, sizeof y);
    return y;
}

inline float __int_as_float(int x) { return bits_as<float>(x); }
inline float __uint_as_float(unsigned x) { return bits_as<float>(x); }
inline int __float_as_int(float x) { return bits_as<int>(x); }
inline unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
inline double __longlong_as_double(long long x) { return bits_as<double>(x); }
inline long long __double_as_longlong(double x) { return bits_as<long long>(x); }

// ---- 16-bit numbers ------------------------------------------------------------------------------------

// The processor's instructions by name: the header that has them takes longer to compile than a kernel.

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

inline float to_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
inline float to_float(float x) { return x; }
inline float to_float(f16 x) {
#ifdef __F16C__
    float y;
    asm("vcvtph2ps %1, %0" : "=x"(y) : "x"(__uint_as_float(x.bits)));
    return y;
#else
    const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
    const uint32_t magnitude = x.bits & 0x7fff;
    if (magnitude >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    // Subnormal or not: the same bits as a float of exponents that are 112 too low.
    const float value = __uint_as_float(magnitude << 13) * 0x1p112f;
    return __uint_as_float(sign | __float_as_uint(value));
#endif
}

template <class T> inline T from_float(float x);
template <> inline float from_float<float>(float x) { return x; }
template <> inline bf16 from_float<bf16>(float x) {
    const uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return {0x7fff};
    return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
template <> inline f16 from_float<f16>(float x) {
    if (x != x) return {0x7fff};
#ifdef __F16C__
    float y; // in its low half; 0: to nearest even
    asm("vcvtps2ph $0, %1, %0" : "=x"(y) : "x"(x));
    return {static_cast<uint16_t>(__float_as_uint(y))};
#else
    const uint32_t sign = __float_as_uint(x) >> 16 & 0x8000;
    const float size = fabsf(x);
    if (size >= 65520.f) return {static_cast<uint16_t>(sign | 0x7c00)};
    uint32_t bits = __float_as_uint(size);
    // Below 2^-14 all numbers are multiples of 2^-24: adding 0.5 rounds to such a multiple.
    if (size < 0x1p-14f) return {static_cast<uint16_t>(sign | (__float_as_uint(size + 0.5f) & 0x7ff))};
    bits += 0xfff + (bits >> 13 & 1);
    return {static_cast<uint16_t>(sign | ((bits >> 13) - (112 << 10)))};
#endif
}

template <class T> inline uint32_t pack2(float low, float high) {
    return from_float<T>(low).bits | static_cast<uint32_t>(from_float<T>(high).bits) << 16;
}
template <class T> inline float2 unpack2(uint32_t word) {
    return {to_float(T{static_cast<uint16_t>(word)}), to_float(T{static_cast<uint16_t>(word >> 16)})};
}

// ---- arithmetic ----------------------------------------------------------------------------------------

inline float exp2_fast(float x) { return exp2f(x); }
inline float rsqrtf(float x) { return 1.f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frcp_rn(float x) { return 1.f / x; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __saturatef(float x) { return x > 0.f ? (x < 1.f ? x : 1.f) : 0.f; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __ddiv_rn(double x, double y) { return x / y; }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }

// Like CUDA's: a signed and an unsigned number of one size compare as unsigned ones.
#define EMULATOR_MIN_MAX(Result, Left, Right)                                                          \
    inline Result min(Left x, Right y) {                                                             \
        const Result a = static_cast<Result>(x), b = static_cast<Result>(y);                         \
        return b < a ? b : a;                                                                        \
    }                                                                                                \
    inline Result max(Left x, Right y) {                                                             \
        const Result a = static_cast<Result>(x), b = static_cast<Result>(y);                         \
        return a < b ? b : a;                                                                        \
    }
EMULATOR_MIN_MAX(int, int, int)
EMULATOR_MIN_MAX(unsigned, unsigned, unsigned)
EMULATOR_MIN_MAX(unsigned, int, unsigned)
EMULATOR_MIN_MAX(unsigned, unsigned, int)
EMULATOR_MIN_MAX(long, long, long)
EMULATOR_MIN_MAX(unsigned long, unsigned long, unsigned long)
EMULATOR_MIN_MAX(unsigned long, long, unsigned long)
EMULATOR_MIN_MAX(unsigned long, unsigned long, long)
EMULATOR_MIN_MAX(long long, long long, long long)
EMULATOR_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
EMULATOR_MIN_MAX(unsigned long long, long long, unsigned long long)
EMULATOR_MIN_MAX(unsigned long long, unsigned long long, long long)
EMULATOR_MIN_MAX(double, double, double)
#undef EMULATOR_MIN_MAX
inline float min(float x, float y) { return fminf(x, y); }
inline float max(float x, float y) { return fmaxf(x, y); }

// ---- bits ----------------------------------------------------------------------------------------------

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) {
    return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline unsigned __umulhi(unsigned x, unsigned y) {
    return static_cast<unsigned>(static_cast<uint64_t>(x) * y >> 32);
}
inline int __mulhi(int x, int y) { return static_cast<int>(static_cast<int64_t>(x) * y >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    __extension__ typedef unsigned __int128 Wide;
    return static_cast<unsigned long long>(static_cast<Wide>(x) * y >> 64);
}
