/* The weighted l1 distances of distance.py. loader.py puts this text twice, for REAL float and double, with NAME(x) a
   name of its own for each. A comparison with NaN is false: all conditions are written so that NaN goes on. */

/* WeightedDistance.forward: own and weight are (rows, size), points (count, size), found (rows, count). */
void NAME(weighted)(int64_t rows, int64_t count, int64_t size, const REAL *restrict own, const REAL *restrict points,
                    const REAL *restrict weight, REAL *restrict found)
{
    const int64_t whole = size - size % LANES;
    for (int64_t row = 0; row < rows; row++, own += size, weight += size) {
        const REAL *restrict point = points;
        for (int64_t j = 0; j < count; j++, point += size) {
            REAL sums[LANES] = {0}, sum = 0;
            for (int64_t i = 0; i < whole; i += LANES)
                for (int lane = 0; lane < LANES; lane++) {
                    REAL gap = own[i + lane] - point[i + lane];
                    sums[lane] += (gap < 0 ? -gap : gap) * weight[i + lane];
                }
            for (int64_t i = whole; i < size; i++) {
                REAL gap = own[i] - point[i];
                sum += (gap < 0 ? -gap : gap) * weight[i];
            }
            for (int lane = 0; lane < LANES; lane++)
                sum += sums[lane];
            *found++ = sum;
        }
    }
}

/* WeightedDistance.backward of the columns start to stop: all points and rows of a column are one thread's, so that each sum is
   taken in one order. grad_points holds zeros. */
void NAME(weighted_back)(int64_t rows, int64_t count, int64_t size, int64_t start, int64_t stop,
                         const REAL *restrict own, const REAL *restrict points, const REAL *restrict weight,
                         const REAL *restrict grad, REAL *restrict grad_own, REAL *restrict grad_points,
                         REAL *restrict grad_weight)
{
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t i = start; i < stop; i++)
            grad_own[i] = grad_weight[i] = 0;
        const REAL *restrict point = points;
        REAL *restrict to_point = grad_points;
        for (int64_t j = 0; j < count; j++, point += size, to_point += size) {
            const REAL up = *grad++;
            for (int64_t i = start; i < stop; i++) {
                REAL gap = own[i] - point[i], scaled = up * weight[i];
                REAL slope = gap < 0 ? -scaled : gap > 0 ? scaled : 0 * scaled;
                grad_weight[i] += up * (gap < 0 ? -gap : gap);
                grad_own[i] += slope;
                to_point[i] -= slope;
            }
        }
        own += size, weight += size, grad_own += size, grad_weight += size;
    }
}
