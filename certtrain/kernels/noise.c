/* The keyed noise of noise.py, one counter at a time: the same bits.

   Every operation on floating-point numbers is one IEEE 754 operation in the order of noise.py, and must stay one: to be
   compiled without contraction of products and sums, and without fast-math. kernel.py puts the constants before this
   text: SQRT_HALF_BITS, LOG1P, SIN, COS, MINUS_LOG_2, ANGLE, MULTIPLIERS, WEYL, ROUNDS. */

static inline float polynomial(const float *coefficients, int count, float x)
{
    float out = x * coefficients[count - 1];
    for (int i = count - 2; i > 0; i--)
        out = (out + coefficients[i]) * x;
    return out + coefficients[0];
}
#define POLYNOMIAL(coefficients, x) polynomial(coefficients, sizeof(coefficients) / sizeof(float), x)

static inline float flipped(float value, uint32_t sign)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits ^= sign & 0x80000000u;
    memcpy(&value, &bits, 4);
    return value;
}

/* noise.normal_pair */
static inline void pair(uint32_t radial, uint32_t angular, float *first, float *second)
{
    float y = (float)((double)radial + 0.5), t;
    int32_t bits, exponent;
    memcpy(&bits, &y, 4);
    exponent = (bits - SQRT_HALF_BITS) >> 23;
    bits -= exponent * (1 << 23);
    memcpy(&t, &bits, 4);
    t = t - 1.0f;
    float log1p = POLYNOMIAL(LOG1P, t) * t;
    float half = sqrtf((float)(exponent - 32) * MINUS_LOG_2 - log1p);
    float phi = ((float)((int32_t)(angular << 2) >> 8) + 0.5f) * ANGLE;
    float square = phi * phi;
    float sine = POLYNOMIAL(SIN, square) * phi * half;
    float cosine = POLYNOMIAL(COS, square) * half;
    *first = flipped(cosine - sine, angular);
    *second = flipped(cosine + sine, angular << 1);
}

/* randomness.philox4x32 of one counter, in place. */
static inline void philox(uint32_t k0, uint32_t k1, uint32_t *c)
{
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t p0 = (uint64_t)c[0] * MULTIPLIERS[0], p1 = (uint64_t)c[2] * MULTIPLIERS[1];
        c[0] = (uint32_t)(p1 >> 32) ^ c[1] ^ k0;
        c[2] = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
        c[1] = (uint32_t)p1;
        c[3] = (uint32_t)p0;
        k0 += WEYL[0];
        k1 += WEYL[1];
    }
}

void normal_pairs(int64_t count, const uint32_t *radial, const uint32_t *angular, float *first, float *second)
{
    for (int64_t i = 0; i < count; i++)
        pair(radial[i], angular[i], first + i, second + i);
}

/* noise.noise_rows: out is (rows, 4, blocks). */
void noise_rows(uint32_t key0, uint32_t key1, const int64_t *index, const int64_t *draw, int64_t rows, uint32_t blocks,
                float sigma, float *restrict out)
{
    for (int64_t row = 0; row < rows; row++, out += 4 * (int64_t)blocks) {
        const uint32_t low = (uint32_t)index[row], high = (uint32_t)((uint64_t)index[row] >> 32);
        const uint32_t number = (uint32_t)draw[row];
        float *restrict out_a = out, *restrict out_b = out_a + blocks;
        float *restrict out_c = out_b + blocks, *restrict out_d = out_c + blocks;
        for (uint32_t block = 0; block < blocks; block++) {
            uint32_t c[4] = {block, number, low, high};
            philox(key0, key1, c);
            float first, second;
            pair(c[0], c[1], &first, &second);
            out_a[block] = first * sigma;
            out_b[block] = second * sigma;
            pair(c[2], c[3], &first, &second);
            out_c[block] = first * sigma;
            out_d[block] = second * sigma;
        }
    }
}

/* randomness.uniforms: out is (rows, 4 blocks), a block's four words side by side. */
void uniform_rows(uint32_t key0, uint32_t key1, const int64_t *index, uint32_t draw, int64_t rows, uint32_t blocks,
                  float *restrict out)
{
    for (int64_t row = 0; row < rows; row++, out += 4 * (int64_t)blocks) {
        const uint32_t low = (uint32_t)index[row], high = (uint32_t)((uint64_t)index[row] >> 32);
        for (uint32_t block = 0; block < blocks; block++) {
            uint32_t c[4] = {block, draw, low, high};
            philox(key0, key1, c);
            for (int lane = 0; lane < 4; lane++)
                out[4 * (int64_t)block + lane] = (float)(int32_t)(c[lane] >> 8) * 0x1p-24f;
        }
    }
}
