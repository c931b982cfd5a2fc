/* The ReLUs of relu.py, in one pass over memory each. loader.py puts this text twice, for REAL float and double, with
   NAME(x) a name of its own for each. A comparison with NaN is false: all conditions are written so that NaN goes on. */

#undef POSITIVE
#define POSITIVE(condition, value) ((condition) <= 0 ? 0 : (value))

/* IntervalRelu.forward: count elements of each of the three. */
void NAME(interval)(int64_t count, const REAL *restrict clean, const REAL *restrict centre, const REAL *restrict radius,
                    REAL *restrict out_clean, REAL *restrict out_centre, REAL *restrict spread, REAL *restrict lower,
                    REAL *restrict upper)
{
    for (int64_t i = 0; i < count; i++) {
        REAL l = centre[i] - radius[i], u = centre[i] + radius[i];
        REAL low = l < 0 ? 0 : l, high = u < 0 ? 0 : u, middle = high - (REAL)0.5 * (high - low);
        lower[i] = l;
        upper[i] = u;
        out_clean[i] = clean[i] < 0 ? 0 : clean[i];
        out_centre[i] = middle;
        spread[i] = high - middle;
    }
}

/* IntervalRelu.backward; of_lower and of_upper may be NULL, and of_clean with clean and grad_clean. */
void NAME(interval_back)(int64_t count, const REAL *restrict clean, const REAL *restrict lower,
                         const REAL *restrict upper, const REAL *restrict of_clean, const REAL *restrict of_centre,
                         const REAL *restrict of_spread, const REAL *restrict of_lower, const REAL *restrict of_upper,
                         REAL *restrict grad_clean, REAL *restrict grad_centre, REAL *restrict grad_radius)
{
    for (int64_t i = 0; of_clean != NULL && i < count; i++)
        grad_clean[i] = POSITIVE(clean[i], of_clean[i]);
    if (of_lower == NULL && of_upper == NULL) {
        for (int64_t i = 0; i < count; i++) {
            REAL low = POSITIVE(lower[i], of_centre[i] - of_spread[i]);
            REAL high = POSITIVE(upper[i], of_centre[i] + of_spread[i]);
            REAL middle = high - (REAL)0.5 * (high - low);
            grad_centre[i] = middle;
            grad_radius[i] = high - middle;
        }
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        REAL low = POSITIVE(lower[i], of_centre[i] - of_spread[i]);
        REAL high = POSITIVE(upper[i], of_centre[i] + of_spread[i]);
        low = of_lower == NULL ? low : low + 2 * of_lower[i];
        high = of_upper == NULL ? high : high + 2 * of_upper[i];
        REAL middle = high - (REAL)0.5 * (high - low);
        grad_centre[i] = middle;
        grad_radius[i] = high - middle;
    }
}

/* relu.py: relu_lines of one example. */
static void NAME(lines)(int64_t size, const REAL *restrict lower, const REAL *restrict upper, REAL *restrict sign,
                        REAL *restrict high, REAL *restrict offset, REAL *restrict width)
{
    for (int64_t i = 0; i < size; i++) {
        REAL l = lower[i], u = upper[i], left = l > 0 ? 0 : l, least = left + (REAL)1e-8;
        REAL right = u < 0 ? 0 : u;
        right = right <= least ? least : right;
        right = left != left ? left : right;
        REAL w = right - left, h = right / w;
        width[i] = w;
        high[i] = h;
        offset[i] = -left * h;
        sign[i] = l + u;
    }
}

/* BoxedRelu.forward of rows examples: a is (rows, functions, size), lower and upper (rows, size), room 4 size numbers. */
void NAME(boxed)(int64_t rows, int64_t functions, int64_t size, const REAL *restrict a, const REAL *restrict lower,
                 const REAL *restrict upper, REAL *restrict before, REAL *restrict constant, REAL *restrict room)
{
    REAL *restrict sign = room, *restrict high = room + size, *restrict offset = room + 2 * size;
    for (int64_t row = 0; row < rows; row++, lower += size, upper += size) {
        NAME(lines)(size, lower, upper, sign, high, offset, room + 3 * size);
        for (int64_t s = 0; s < functions; s++, a += size, before += size) {
            REAL sums[LANES] = {0}, sum = 0;
            int64_t whole = size - size % LANES;
            for (int64_t i = 0; i < size; i++) {
                REAL negative = a[i] > 0 ? 0 : a[i];
                before[i] = negative * high[i] + POSITIVE(sign[i], a[i] - negative);
            }
            for (int64_t i = 0; i < whole; i += LANES)
                for (int lane = 0; lane < LANES; lane++)
                    sums[lane] += (a[i + lane] > 0 ? 0 : a[i + lane]) * offset[i + lane];
            for (int64_t i = whole; i < size; i++)
                sum += (a[i] > 0 ? 0 : a[i]) * offset[i];
            for (int lane = 0; lane < LANES; lane++)
                sum += sums[lane];
            *constant++ = sum;
        }
    }
}

/* BoxedRelu.backward; room holds 6 size numbers. */
void NAME(boxed_back)(int64_t rows, int64_t functions, int64_t size, const REAL *restrict a, const REAL *restrict lower,
                      const REAL *restrict upper, const REAL *restrict of_before, const REAL *restrict of_constant,
                      REAL *restrict grad_a, REAL *restrict grad_lower, REAL *restrict grad_upper, REAL *restrict room)
{
    REAL *restrict sign = room, *restrict high = room + size, *restrict offset = room + 2 * size;
    REAL *restrict to_offset = room + 3 * size, *restrict to_high = room + 4 * size, *restrict width = room + 5 * size;
    for (int64_t row = 0; row < rows; row++) {
        NAME(lines)(size, lower, upper, sign, high, offset, width);
        memset(to_offset, 0, 2 * size * sizeof(REAL));
        for (int64_t s = 0; s < functions; s++, a += size, of_before += size, grad_a += size) {
            const REAL to_constant = *of_constant++;
            for (int64_t i = 0; i < size; i++) {
                REAL up = of_before[i], negative = a[i] > 0 ? 0 : a[i], above = POSITIVE(sign[i], up);
                REAL below = to_constant * offset[i] + up * high[i] - above;
                to_offset[i] += to_constant * negative;
                to_high[i] += negative * up;
                grad_a[i] = above + (negative >= 0 ? 0 : below);
            }
        }
        for (int64_t i = 0; i < size; i++) {
            REAL rest = 1 - high[i], unstable = high[i] * rest;
            REAL slope = POSITIVE(unstable, to_high[i] / width[i]), shift = POSITIVE(unstable, to_offset[i]);
            grad_lower[i] = (slope - shift * high[i]) * high[i];
            grad_upper[i] = (slope + shift * rest) * rest;
        }
        lower += size, upper += size, grad_lower += size, grad_upper += size;
    }
}
