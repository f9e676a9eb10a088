use burn::{
    backend::{
        Dispatch, DispatchTensor, Scalar, TensorMetadata,
        ops::{ActivationOps, BoolTensorOps, FloatTensorOps, IntTensorOps},
    },
    tensor::{Bool, DType, Device, Int, Shape, Tensor, TensorData},
};

use super::execute::full;
use crate::error::Error;

/// A tensor of any rank and kind: what flows along the edges of a [`Graph`](super::Graph).
///
/// Burn's [`Tensor`] has its rank in its type; a graph meets ranks only at run time. Floats
/// have arithmetic (with broadcasting), which is what rules are written in:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use saliency_core::graph::Value;
/// let x = Value::from(Tensor::<2>::from_floats([[1.0, -2.0]], &Device::flex()));
/// let y = &(&x * &x) + &x.relu();
/// assert_eq!(y.tensor::<2>().try_into_vec_as::<f32>().unwrap(), [2.0, 4.0]);
/// ```
#[derive(Clone, Debug)]
pub struct Value(pub(crate) DispatchTensor);

impl<const D: usize> From<Tensor<D>> for Value {
    fn from(tensor: Tensor<D>) -> Self {
        Value(tensor.into_dispatch())
    }
}

impl<const D: usize> From<Tensor<D, Int>> for Value {
    fn from(tensor: Tensor<D, Int>) -> Self {
        Value(tensor.into_dispatch())
    }
}

impl<const D: usize> From<Tensor<D, Bool>> for Value {
    fn from(tensor: Tensor<D, Bool>) -> Self {
        Value(tensor.into_dispatch())
    }
}

impl Value {
    /// Values on a device, from the host.
    pub(crate) fn from_data(data: TensorData, device: &Device) -> Self {
        // The rank of a `Tensor` is only a promise of its type; no operation here reads it.
        let (bytes, shape, dtype) = data.into_parts();
        let flat = TensorData::from_bytes(bytes, [shape.num_elements()], dtype);
        let value: Value = match dtype {
            dtype if dtype.is_float() => Tensor::<1>::from_data(flat, (device, dtype)).into(),
            dtype if dtype.is_bool() => Tensor::<1, Bool>::from_data(flat, device).into(),
            dtype => Tensor::<1, Int>::from_data(flat, (device, dtype)).into(),
        };
        value.reshape(&shape.to_vec())
    }

    /// As a Burn tensor of rank `D`.
    ///
    /// # Panics
    /// Where the rank is another, or the values are not floats.
    pub fn tensor<const D: usize>(self) -> Tensor<D> {
        assert_eq!(self.rank(), D, "a value of shape {:?}", self.shape());
        Tensor::from_dispatch(self.0)
    }

    /// Sizes of all axes.
    pub fn shape(&self) -> Vec<usize> {
        self.0.shape().to_vec()
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.shape().num_dims()
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.0.dtype()
    }

    /// Whether the elements are floats.
    pub fn is_float(&self) -> bool {
        self.dtype().is_float()
    }

    /// All values of a float in row-major order.
    ///
    /// # Errors
    /// [`Error::Device`] where the device fails.
    pub fn to_vec(&self) -> Result<Vec<f32>, Error> {
        self.typed().try_into_vec_as::<f32>().map_err(Error::device)
    }

    /// A handle with a made-up rank, for operations of Burn that do not look at it.
    pub(crate) fn typed(&self) -> Tensor<1> {
        Tensor::from_dispatch(self.0.clone())
    }

    /// The device, off the tape.
    pub(crate) fn device(&self) -> Device {
        match self.dtype() {
            dtype if dtype.is_float() => self.typed().device().inner(),
            dtype if dtype.is_bool() => Tensor::<1, Bool>::from_dispatch(self.0.clone())
                .device()
                .inner(),
            _ => Tensor::<1, Int>::from_dispatch(self.0.clone())
                .device()
                .inner(),
        }
    }

    /// On another device.
    pub(crate) fn to_device(&self, device: &Device) -> Self {
        match self.dtype() {
            dtype if dtype.is_float() => self.typed().to_device(device).into(),
            dtype if dtype.is_bool() => Tensor::<1, Bool>::from_dispatch(self.0.clone())
                .to_device(device)
                .into(),
            _ => Tensor::<1, Int>::from_dispatch(self.0.clone())
                .to_device(device)
                .into(),
        }
    }

    /// As another float type.
    pub(crate) fn cast(&self, dtype: DType) -> Self {
        match self.is_float() && self.dtype() != dtype {
            true => self.typed().cast(dtype).into(),
            false => self.clone(),
        }
    }

    /// Off the tape.
    pub fn inner(self) -> Self {
        match self.is_float() {
            true => self.typed().inner().into(),
            false => self,
        }
    }

    /// A new leaf of the tape.
    pub(crate) fn leaf(self) -> Self {
        self.typed().inner().autodiff().require_grad().into()
    }

    pub(crate) fn is_tracked(&self) -> bool {
        self.is_float() && self.typed().is_tracked()
    }

    /// Zeros of the same shape, kind and device.
    pub fn zeros_like(&self) -> Self {
        self.full_like(0.0)
    }

    /// One number everywhere.
    pub fn full_like(&self, value: f64) -> Self {
        full(value, self.dtype(), &self.shape(), &self.device())
    }

    /// The same values in another shape.
    pub fn reshape(self, shape: &[usize]) -> Self {
        let shape = Shape::from(shape.to_vec());
        Value(match self.dtype() {
            dtype if dtype.is_float() => Dispatch::float_reshape(self.0, shape),
            dtype if dtype.is_bool() => Dispatch::bool_reshape(self.0, shape),
            _ => Dispatch::int_reshape(self.0, shape),
        })
    }

    /// Broadcast to a shape.
    pub fn expand(self, shape: &[usize]) -> Self {
        let shape = Shape::from(shape.to_vec());
        Value(match self.dtype() {
            dtype if dtype.is_float() => Dispatch::float_expand(self.0, shape),
            dtype if dtype.is_bool() => Dispatch::bool_expand(self.0, shape),
            _ => Dispatch::int_expand(self.0, shape),
        })
    }

    /// Axes in another order.
    pub fn permute(self, axes: &[usize]) -> Self {
        Value(match self.dtype() {
            dtype if dtype.is_float() => Dispatch::float_permute(self.0, axes),
            dtype if dtype.is_bool() => Dispatch::bool_permute(self.0, axes),
            _ => Dispatch::int_permute(self.0, axes),
        })
    }

    /// The last two axes exchanged.
    pub fn transpose(self) -> Self {
        Value(Dispatch::float_transpose(self.0))
    }

    /// Some rows of an axis.
    pub fn narrow(self, axis: usize, start: usize, len: usize) -> Self {
        let slices: Vec<_> = self
            .shape()
            .iter()
            .enumerate()
            .map(|(d, &size)| match d == axis {
                true => (start..start + len).into(),
                false => (0..size).into(),
            })
            .collect();
        Value(match self.dtype() {
            dtype if dtype.is_float() => Dispatch::float_slice(self.0, &slices),
            dtype if dtype.is_bool() => Dispatch::bool_slice(self.0, &slices),
            _ => Dispatch::int_slice(self.0, &slices),
        })
    }

    /// Values joined along an axis.
    pub fn cat(values: Vec<Value>, axis: usize) -> Self {
        let dtype = values[0].dtype();
        let values = values.into_iter().map(|v| v.0).collect();
        Value(match dtype {
            dtype if dtype.is_float() => Dispatch::float_cat(values, axis),
            dtype if dtype.is_bool() => Dispatch::bool_cat(values, axis),
            _ => Dispatch::int_cat(values, axis),
        })
    }

    /// Matrix product over the last two axes.
    pub fn matmul(&self, other: &Value) -> Self {
        Value(Dispatch::float_matmul(self.0.clone(), other.0.clone()))
    }

    /// max(x, 0).
    pub fn relu(&self) -> Self {
        Value(Dispatch::relu(self.0.clone()))
    }

    /// min(x, 0).
    pub fn negative_part(&self) -> Self {
        Value(Dispatch::float_clamp_max(
            self.0.clone(),
            Scalar::Float(0.0),
        ))
    }

    /// |x|.
    pub fn abs(&self) -> Self {
        Value(Dispatch::float_abs(self.0.clone()))
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> Self {
        Value(Dispatch::float_sign(self.0.clone()))
    }

    /// 1 / x.
    pub fn recip(&self) -> Self {
        Value(Dispatch::float_recip(self.0.clone()))
    }

    /// Every element plus a number.
    pub fn plus(&self, number: f64) -> Self {
        Value(Dispatch::float_add_scalar(
            self.0.clone(),
            Scalar::Float(number),
        ))
    }

    /// Every element times a number.
    pub fn times(&self, number: f64) -> Self {
        Value(Dispatch::float_mul_scalar(
            self.0.clone(),
            Scalar::Float(number),
        ))
    }

    /// x where `self` is greater than a number, zero elsewhere.
    pub fn where_above(&self, number: f64, x: &Value) -> Self {
        self.choose(number, x, &x.zeros_like())
    }

    /// `above` where `self` is greater than a number, `below` elsewhere.
    pub fn choose(&self, number: f64, above: &Value, below: &Value) -> Self {
        let mask = self.typed().greater_elem(number).into_dispatch();
        Value(Dispatch::float_mask_where(
            below.0.clone(),
            mask,
            above.0.clone(),
        ))
    }

    /// Summed over some axes, which stay with size one.
    pub fn sum_dims(&self, axes: &[usize]) -> Self {
        axes.iter().fold(self.clone(), |value, &axis| {
            Value(Dispatch::float_sum_dim(value.0, axis))
        })
    }

    /// The largest along an axis, which stays with size one.
    pub fn max_dim(&self, axis: usize) -> Self {
        Value(Dispatch::float_max_dim(self.0.clone(), axis))
    }

    /// 0 and 1 for false and true.
    pub(crate) fn number(&self, dtype: DType) -> Self {
        Value(Dispatch::bool_into_float(self.0.clone(), dtype.into()))
    }

    /// Averaged over some axes, which stay with size one.
    pub fn mean_dims(&self, axes: &[usize]) -> Self {
        axes.iter().fold(self.clone(), |value, &axis| {
            Value(Dispatch::float_mean_dim(value.0, axis))
        })
    }

    /// Summed down to a shape that was broadcast to this one.
    pub fn sum_to(&self, shape: &[usize]) -> Self {
        let own = self.shape();
        if own == shape {
            return self.clone();
        }
        let missing = own.len() - shape.len();
        let axes: Vec<usize> = (0..own.len())
            .filter(|&d| d < missing || (shape[d - missing] == 1 && own[d] != 1))
            .collect();
        self.sum_dims(&axes).reshape(shape)
    }
}

macro_rules! arithmetic {
    ($($trait:ident $method:ident $float:ident;)*) => {
        $( impl std::ops::$trait for &Value {
            type Output = Value;
            fn $method(self, other: &Value) -> Value {
                let (a, b) = aligned(self, other);
                Value(Dispatch::$float(a, b))
            }
        } )*
    };
}

arithmetic! {
    Add add float_add;
    Sub sub float_sub;
    Mul mul float_mul;
    Div div float_div;
}

/// Both with the same number of axes, leading ones of size one added.
fn aligned(a: &Value, b: &Value) -> (DispatchTensor, DispatchTensor) {
    let rank = a.rank().max(b.rank());
    let grow = |v: &Value| match v.rank() == rank {
        true => v.0.clone(),
        false => {
            let mut shape = vec![1; rank - v.rank()];
            shape.extend(v.shape());
            v.clone().reshape(&shape).0
        }
    };
    (grow(a), grow(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_undo_broadcasting() {
        let x = Value::from(Tensor::<3>::ones([2, 3, 4], &Device::flex()));
        assert_eq!(x.sum_to(&[3, 1]).to_vec().unwrap(), [8.0; 3]);
        assert_eq!(x.sum_to(&[1, 1, 4]).to_vec().unwrap(), [6.0; 4]);
        assert_eq!(x.sum_to(&[2, 3, 4]).shape(), [2, 3, 4]);
    }

    #[test]
    fn kinds_survive_the_host() {
        let device = Device::flex();
        let ints = Value::from_data(TensorData::new(vec![1i64, 2, 3, 4], [2, 2]), &device);
        assert_eq!((ints.shape(), ints.is_float()), (vec![2, 2], false));
        let bools = Value::from_data(TensorData::new(vec![true, false], [1, 2]), &device);
        assert!(bools.dtype().is_bool());
        assert_eq!(bools.shape(), [1, 2]);
    }
}
