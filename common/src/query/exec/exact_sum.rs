//! An exact sum of integers and floats.
//!
//! Adding floats rounds, so that a sum depends on the order of the rows.
//! Here a sum is kept exactly: integers in 128 bits, floats in a fixed-point number that is wide enough for every float, as in
//! Radford Neal's superaccumulators (arXiv:1505.05571). It is rounded once, when it is read. So every plan, every reader and
//! every sum over time returns the same digits.

use crate::format::value::Value;

/// The digits of the fixed-point number have 32 bits each. The first one is worth 2^-1074, the smallest float.
const DIGIT_BITS: usize = 32;
/// The position of the bit that is worth 1.
const ONE_BIT: usize = 1074;
/// 2098 bits hold every float; 64 more hold sums of 2^64 of them.
const DIGITS: usize = 69;
/// The number of additions after which the digits are carried, before one of them overflows: each adds less than 2^32 to a digit.
const ADDITIONS_PER_CARRY: u32 = 1 << 29;

/// An exact sum. Numbers can be taken out of it as well as added, in any order.
#[derive(Debug, Clone, Default)]
pub struct ExactSum {
    integers: i128,
    /// How many floats are in the sum. If none, the sum is an integer. It wraps while more were taken out than added.
    floats: u64,
    /// `None` until the first float.
    fraction: Option<Box<FixedPoint>>,
}

impl ExactSum {
    /// Adds an integer of a document, which has 65 bits at most: 2^62 of them fit.
    pub fn add_int(&mut self, int: i128) {
        self.integers = self.integers.saturating_add(int);
    }

    /// Takes an integer out that was added, here or to a sum that is merged with this one.
    pub fn remove_int(&mut self, int: i128) {
        self.integers = self.integers.saturating_sub(int);
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &ExactSum) {
        self.integers = self.integers.saturating_add(other.integers);
        self.floats = self.floats.wrapping_add(other.floats);
        if let Some(fraction) = &other.fraction {
            self.fraction.get_or_insert_default().merge(fraction);
        }
    }

    /// Adds a finite float.
    pub fn add_float(&mut self, float: f64) {
        self.floats = self.floats.wrapping_add(1);
        self.fraction.get_or_insert_default().add_float(float);
    }

    /// Takes a finite float out that was added, here or to a sum that is merged with this one.
    pub fn remove_float(&mut self, float: f64) {
        self.floats = self.floats.wrapping_sub(1);
        self.fraction.get_or_insert_default().add_float(-float);
    }

    /// The sum: an integer if no float is in it, or else the float nearest to it. `None` if a document cannot contain it,
    /// because it is too large.
    pub fn value(&self) -> Option<Value> {
        if self.floats == 0 {
            let fits = (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&self.integers);
            return fits.then_some(Value::Int(self.integers));
        }
        self.to_float().map(Value::Float)
    }

    /// The float nearest to the sum; `None` if it is larger than every float.
    pub fn to_float(&self) -> Option<f64> {
        let mut whole = match &self.fraction {
            Some(fraction) if self.floats > 0 => FixedPoint::clone(fraction),
            #[expect(clippy::cast_precision_loss, reason = "rounded to the nearest")]
            _ => return Some(self.integers as f64),
        };
        whole.add_int(self.integers);
        whole.to_float()
    }
}

#[derive(Debug, Clone)]
struct FixedPoint {
    /// The least significant first. Between carries they can be negative, or larger than 32 bits.
    digits: [i64; DIGITS],
    additions: u32,
}

impl Default for FixedPoint {
    fn default() -> FixedPoint {
        FixedPoint { digits: [0; DIGITS], additions: 0 }
    }
}

impl FixedPoint {
    fn merge(&mut self, other: &FixedPoint) {
        for (digit, other) in self.digits.iter_mut().zip(&other.digits) {
            *digit += other;
        }
        // What was carried before is less than one addition.
        self.additions = self.additions.saturating_add(other.additions).saturating_add(1);
        if self.additions >= ADDITIONS_PER_CARRY {
            self.carry();
        }
    }

    fn add_float(&mut self, float: f64) {
        let bits = float.to_bits();
        let exponent = usize::try_from((bits >> 52) & 0x7ff).unwrap_or_default();
        let fraction = bits & ((1 << 52) - 1);
        // A subnormal number has the exponent of the smallest normal one, without its leading bit.
        let (mantissa, position) = match exponent {
            0 => (fraction, 0),
            exponent => (fraction | (1 << 52), exponent - 1),
        };
        self.add(u128::from(mantissa), position, float.is_sign_negative());
    }

    fn add_int(&mut self, int: i128) {
        let magnitude = int.unsigned_abs();
        self.add(magnitude & u128::from(u64::MAX), ONE_BIT, int < 0);
        self.add(magnitude >> 64, ONE_BIT + 64, int < 0);
    }

    /// Adds a number of at most 64 bits, shifted left by `position`.
    fn add(&mut self, number: u128, position: usize, negative: bool) {
        let mut shifted = number << (position % DIGIT_BITS);
        for digit in self.digits.iter_mut().skip(position / DIGIT_BITS) {
            if shifted == 0 {
                break;
            }
            let low = i64::from(u32::try_from(shifted & u128::from(u32::MAX)).unwrap_or_default());
            *digit += if negative { -low } else { low };
            shifted >>= DIGIT_BITS;
        }
        self.additions += 1;
        if self.additions >= ADDITIONS_PER_CARRY {
            self.carry();
        }
    }

    /// Brings every digit but the last into 0..2^32.
    fn carry(&mut self) {
        self.additions = 0;
        let mut carry = 0;
        let last = self.digits.len() - 1;
        for digit in self.digits.iter_mut().take(last) {
            let sum = *digit + carry;
            *digit = sum & i64::from(u32::MAX);
            carry = sum >> DIGIT_BITS;
        }
        if let Some(digit) = self.digits.last_mut() {
            *digit += carry;
        }
    }

    /// Rounds to the nearest float, half to even.
    fn to_float(&self) -> Option<f64> {
        let mut sum = self.clone();
        sum.carry();
        let negative = sum.digits.last().is_some_and(|digit| *digit < 0);
        if negative {
            sum.digits.iter_mut().for_each(|digit| *digit = -*digit);
            sum.carry();
        }
        let sign = if negative { 1 << 63 } else { 0 };
        let Some((top, digit)) = sum.digits.iter().enumerate().rfind(|(_, digit)| **digit != 0) else {
            return Some(0.0);
        };
        let highest = top * DIGIT_BITS + usize::try_from(digit.ilog2()).unwrap_or_default();
        if highest <= 52 {
            // Below the second exponent the bits of a float are the number itself.
            return Some(f64::from_bits(sum.bits(0, 53) | sign));
        }
        let lowest = highest - 52;
        let mantissa = sum.bits(lowest, 53);
        let half = sum.bits(lowest - 1, 1) == 1;
        let rest = sum.has_bits_below(lowest - 1);
        let exponent = u64::try_from(lowest).ok()? + 1;
        // A mantissa that rounds up to 2^53 carries into the exponent, as it must.
        let encoded =
            (exponent << 52) + (mantissa & ((1 << 52) - 1)) + u64::from(half && (rest || mantissa & 1 == 1));
        let float = f64::from_bits(encoded);
        (exponent < 0x7ff && float.is_finite()).then(|| f64::from_bits(encoded | sign))
    }

    fn bit(&self, position: usize) -> u64 {
        let digit = self.digits.get(position / DIGIT_BITS).copied().unwrap_or_default();
        u64::from((digit >> (position % DIGIT_BITS)) & 1 == 1)
    }

    fn bits(&self, lowest: usize, count: usize) -> u64 {
        (0..count).fold(0, |all, at| all | (self.bit(lowest + at) << at))
    }

    fn has_bits_below(&self, position: usize) -> bool {
        let whole = self.digits.iter().take(position / DIGIT_BITS).any(|digit| *digit != 0);
        whole || (position / DIGIT_BITS * DIGIT_BITS..position).any(|at| self.bit(at) == 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_float() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<f64>().prop_filter("finite", |f| f.is_finite()),
            -1e6f64..1e6,
            (0u64..4).prop_map(f64::from_bits),
            Just(f64::MIN_POSITIVE),
            Just(9_007_199_254_740_993.0),
        ]
    }

    proptest! {
        #[test]
        fn one_float_is_itself(float in any_float()) {
            let mut sum = ExactSum::default();
            sum.add_float(float);
            prop_assert_eq!(sum.to_float(), Some(float));
        }

        #[test]
        fn two_floats_are_rounded_once(a in any_float(), b in any_float()) {
            // The sum of two floats in hardware is the float nearest to the exact sum.
            let mut sum = ExactSum::default();
            sum.add_float(a);
            sum.add_float(b);
            prop_assert_eq!(sum.to_float(), Some(a + b).filter(|sum| sum.is_finite()));
        }

        #[test]
        fn order_does_not_matter(
            mut floats in prop::collection::vec(any_float(), 0..20),
            ints in prop::collection::vec(any::<i64>(), 0..5),
        ) {
            let mut sum = ExactSum::default();
            floats.iter().for_each(|float| sum.add_float(*float));
            ints.iter().for_each(|int| sum.add_int((*int).into()));
            let mut other = ExactSum::default();
            floats.reverse();
            ints.iter().for_each(|int| other.add_int((*int).into()));
            floats.iter().for_each(|float| other.add_float(*float));
            prop_assert_eq!(sum.value(), other.value());
        }

        #[test]
        fn what_is_taken_out_again_leaves_no_trace(
            kept in prop::collection::vec(any_float(), 0..6),
            others in prop::collection::vec(any_float(), 0..6),
            ints in prop::collection::vec(any::<i64>(), 0..5),
        ) {
            let mut sum = ExactSum::default();
            // It can be taken out before it is added.
            others.iter().for_each(|float| sum.remove_float(*float));
            ints.iter().for_each(|int| sum.remove_int((*int).into()));
            kept.iter().for_each(|float| sum.add_float(*float));
            let mut added = ExactSum::default();
            others.iter().for_each(|float| added.add_float(*float));
            ints.iter().for_each(|int| added.add_int((*int).into()));
            sum.merge(&added);
            let mut plain = ExactSum::default();
            kept.iter().for_each(|float| plain.add_float(*float));
            prop_assert_eq!(sum.value(), plain.value());
        }
    }

    #[test]
    fn large_and_small_floats_do_not_lose_each_other() {
        let mut sum = ExactSum::default();
        for float in [1e300, 1.0, 1e-300, -1e300, 0.1, 0.2, -0.3] {
            sum.add_float(float);
        }
        // 0.1 + 0.2 - 0.3 is not zero in floats: their exact sum is 2^-54.
        assert_eq!(sum.to_float(), Some(1.0));
        sum.add_float(-1.0);
        sum.add_float(-1e-300);
        assert_eq!(sum.to_float(), Some(2f64.powi(-55)));
    }

    #[test]
    fn integers_are_exact_and_bounded() {
        let mut sum = ExactSum::default();
        sum.add_int(u64::MAX.into());
        assert_eq!(sum.value(), Some(Value::Int(u64::MAX.into())));
        sum.add_int(1);
        assert_eq!(sum.value(), None);
        sum.add_int(-2);
        assert_eq!(sum.value(), Some(Value::Int(i128::from(u64::MAX) - 1)));
        sum.add_float(f64::MAX);
        sum.add_float(f64::MAX);
        assert_eq!(sum.value(), None);
    }
}
