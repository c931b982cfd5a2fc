/* The sums of moments.py. loader.py puts this text twice, for REAL float and double, with NAME(x) a name of its own for
   each. Sums are taken in LANES lanes side by side, over BLOCK elements at a time, which are then added up in double.
   Masks are multiplied by, so that what is no number goes on. */

#undef BLOCK
#define BLOCK 2048
#undef ADD
#define ADD(lane, l, u) \
    do { \
        const REAL away = ((l) + (u)) * (REAL)0.5 - p, active = (l) > 0, inactive = (u) < 0; \
        const REAL above = away * active, below = away * inactive; \
        sums[0][lane] += ((u) - (l)) * (REAL)0.5; \
        sums[1][lane] += away; \
        sums[2][lane] += active; \
        sums[3][lane] += above; \
        sums[4][lane] += above * above; \
        sums[5][lane] += inactive; \
        sums[6][lane] += below; \
        sums[7][lane] += below * below; \
    } while (0)

/* Sum of the centres of count elements. */
void NAME(centres)(int64_t count, const REAL *restrict lower, const REAL *restrict upper, double *restrict found)
{
    *found = 0;
    for (int64_t start = 0; start < count; start += BLOCK) {
        const REAL *restrict l = lower + start, *restrict u = upper + start;
        const int64_t size = count - start < BLOCK ? count - start : BLOCK, whole = size - size % LANES;
        REAL sums[LANES] = {0};
        for (int64_t i = 0; i < whole; i += LANES)
            for (int lane = 0; lane < LANES; lane++)
                sums[lane] += (l[i + lane] + u[i + lane]) * (REAL)0.5;
        for (int64_t i = whole; i < size; i++)
            sums[i - whole] += (l[i] + u[i]) * (REAL)0.5;
        for (int lane = 0; lane < LANES; lane++)
            *found += sums[lane];
    }
}

/* The eight sums of moments.Moments over count elements. */
void NAME(moments)(int64_t count, const REAL *restrict lower, const REAL *restrict upper, const REAL *restrict pivot,
                   double *restrict found)
{
    const REAL p = *pivot;
    memset(found, 0, 8 * sizeof(double));
    for (int64_t start = 0; start < count; start += BLOCK) {
        const REAL *restrict l = lower + start, *restrict u = upper + start;
        const int64_t size = count - start < BLOCK ? count - start : BLOCK, whole = size - size % LANES;
        REAL sums[8][LANES] = {{0}};
        for (int64_t i = 0; i < whole; i += LANES)
            for (int lane = 0; lane < LANES; lane++)
                ADD(lane, l[i + lane], u[i + lane]);
        for (int64_t i = whole; i < size; i++)
            ADD(i - whole, l[i], u[i]);
        for (int sum = 0; sum < 8; sum++)
            for (int lane = 0; lane < LANES; lane++)
                found[sum] += sums[sum][lane];
    }
}

/* Moments.backward of count elements; grad holds the gradients of the eight sums. */
void NAME(gradients)(int64_t count, const REAL *restrict lower, const REAL *restrict upper, REAL *restrict grad_lower,
                     REAL *restrict grad_upper, const REAL *restrict grad, const REAL *restrict pivot)
{
    const REAL half = (REAL)0.5, p = *pivot, radius = half * grad[0], every = half * grad[1];
    const REAL above = half * grad[3], above_square = grad[4], below = half * grad[6], below_square = grad[7];
    for (int64_t i = 0; i < count; i++) {
        const REAL l = lower[i], u = upper[i], from = (l + u) * half - p, away = from - from == 0 ? from : 0;
        const REAL of_active = above + above_square * away, of_inactive = below + below_square * away;
        const REAL centre = (l > 0 ? of_active : 0) + (u < 0 ? of_inactive : 0) + every;
        grad_lower[i] = centre - radius;
        grad_upper[i] = centre + radius;
    }
}
