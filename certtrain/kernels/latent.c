/* One step of latent.py. loader.py puts this text twice, for REAL float and double, with NAME(x) a name of its own for
   each. Points start to stop; point i is in the box of example i / several. */
void NAME(advance)(int64_t start, int64_t stop, int64_t several, int64_t size, REAL *restrict place,
                   REAL *restrict best, const REAL *restrict better, const REAL *restrict gradient,
                   const REAL *restrict lower, const REAL *restrict width, const REAL *restrict length,
                   REAL *restrict point)
{
    const REAL step = *length;
    for (int64_t row = start; row < stop; row++) {
        REAL *restrict to = place + row * size, *restrict into = point + row * size;
        const REAL *restrict slope = gradient + row * size;
        const REAL *restrict low = lower + row / several * size, *restrict wide = width + row / several * size;
        if (better[row] != 0)
            memcpy(best + row * size, to, size * sizeof(REAL));
        for (int64_t i = 0; i < size; i++) {
            REAL moved = to[i] - (slope[i] > 0 ? step : slope[i] < 0 ? -step : 0);
            moved = moved < 0 ? 0 : moved > 1 ? 1 : moved;
            REAL far = moved * wide[i];
            to[i] = moved;
            into[i] = far + low[i];
        }
    }
}

/* Linked.backward of examples start to stop, `several` points each. */
void NAME(link_back)(int64_t start, int64_t stop, int64_t several, int64_t size, const REAL *restrict point,
                     const REAL *restrict lower, const REAL *restrict upper, const REAL *restrict grad,
                     const REAL *restrict settings, REAL *restrict grad_lower, REAL *restrict grad_upper)
{
    const REAL link = settings[0], least = settings[1], half = least / 2;
    for (int64_t row = start; row < stop; row++) {
        const REAL *restrict low = lower + row * size, *restrict high = upper + row * size;
        REAL *restrict to_low = grad_lower + row * size, *restrict to_high = grad_upper + row * size;
        for (int64_t i = 0; i < size; i++)
            to_low[i] = to_high[i] = 0;
        for (int64_t j = row * several; j < (row + 1) * several; j++) {
            const REAL *restrict at = point + j * size, *restrict up = grad + j * size;
            for (int64_t i = 0; i < size; i++) {
                const REAL reach = link * (high[i] - low[i]), span = reach < least ? least : reach;
                const REAL above = at[i] - (high[i] - reach), below = (low[i] + reach) - at[i];
                to_high[i] += above >= 0 ? up[i] * ((above < half ? half : above) / span) : 0;
                to_low[i] += below >= 0 ? up[i] * ((below < half ? half : below) / span) : 0;
            }
        }
    }
}
