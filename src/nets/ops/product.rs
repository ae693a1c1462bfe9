//! Safe single-threaded matrix products over slices (the `gemm` crate).

/// A matrix view into a slice: element (i, j) is `data[i * row + j * col]`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub row: usize,
    pub col: usize,
}

impl<'a> View<'a> {
    /// Row-major matrix (rows, cols) whose rows start `stride` elements apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        View { data, rows, cols, row: stride, col: 1 }
    }

    /// Dense row-major matrix (rows, cols).
    pub fn dense(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// The transpose, without moving anything.
    #[must_use]
    pub fn t(self) -> Self {
        View { rows: self.cols, cols: self.rows, row: self.col, col: self.row, ..self }
    }

    fn check(&self) {
        if self.rows > 0 && self.cols > 0 {
            let last = (self.rows - 1) * self.row + (self.cols - 1) * self.col;
            assert!(last < self.data.len(), "matrix view of {}x{} reaches past its slice", self.rows, self.cols);
        }
    }
}

/// `out = scale * a·b`, or `out += scale * a·b` with `add`. Rows of `out` start `stride` elements apart.
///
/// One thread: the result does not depend on how many there are.
pub fn product(out: &mut [f32], stride: usize, a: View, b: View, scale: f32, add: bool) {
    assert_eq!(a.cols, b.rows, "inner dimensions of a matrix product");
    a.check();
    b.check();
    if a.rows == 0 || b.cols == 0 {
        return;
    }
    assert!((a.rows - 1) * stride + b.cols <= out.len() && stride >= b.cols, "matrix product reaches past its output");
    // SAFETY: every view was checked to lie inside its slice, `out` is exclusive and has disjoint rows.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.as_mut_ptr(),
            1,
            stride as isize,
            add,
            a.data.as_ptr(),
            a.col as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.col as isize,
            b.row as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Adds xᵀx to the upper triangle (in blocks) of `out` (C, C), for the first C columns of rows of x that start `width`
/// elements apart. Rows of `out` start `stride` elements apart.
pub fn add_gram(out: &mut [f32], stride: usize, x: &[f32], width: usize, cols: usize) {
    const BLOCK: usize = 128;
    // The last row may end with its last column.
    let rows = (x.len() + width - cols) / width;
    for start in (0..cols).step_by(BLOCK) {
        let (n, rest) = (BLOCK.min(cols - start), cols - start);
        let left = View::strided(&x[start..], rows, n, width);
        let right = View::strided(&x[start..], rows, rest, width);
        product(&mut out[start * stride + start..], stride, left.t(), right, 1.0, true);
    }
}

/// Copies the upper triangle of a square matrix onto the lower one. Rows start `stride` elements apart.
pub fn mirror_upper(m: &mut [f32], n: usize, stride: usize) {
    for i in 1..n {
        for j in 0..i {
            m[i * stride + j] = m[j * stride + i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nets::ops::check::values;

    #[test]
    fn gram_equals_the_plain_sum() {
        let (n, c) = (37, 150);
        let x = values(n * c, 3);
        let mut out = vec![1.0; c * c];
        add_gram(&mut out, c, &x, c, c);
        mirror_upper(&mut out, c, c);
        for (i, j) in [(0, 0), (3, 140), (140, 3), (149, 149), (127, 128)] {
            let sum: f32 = 1.0 + (0..n).map(|t| x[t * c + i] * x[t * c + j]).sum::<f32>();
            assert!((out[i * c + j] - sum).abs() < 1e-4, "{i},{j}");
        }
    }
}
