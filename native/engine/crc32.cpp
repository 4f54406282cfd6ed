// Eight bytes a step from eight tables (Kounavis and Berry 2005, "slicing by 8").
#include "engine/crc32.hpp"

#include <array>
#include <cstring>

namespace dyadiq::engine {
namespace {

using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr Tables make_tables() {
    Tables tables{};
    for (std::uint32_t i = 0; i < 256; ++i) {
        std::uint32_t value = i;
        for (int bit = 0; bit < 8; ++bit) {
            value = (value >> 1) ^ ((value & 1) ? 0xEDB88320U : 0U);
        }
        tables[0][i] = value;
    }
    for (std::size_t t = 1; t < 8; ++t) {
        for (std::size_t i = 0; i < 256; ++i) {
            const std::uint32_t before = tables[t - 1][i];
            tables[t][i] = (before >> 8) ^ tables[0][before & 0xFF];
        }
    }
    return tables;
}

constexpr Tables kTables = make_tables();

std::uint32_t little_endian(const std::uint8_t* at) {
    return static_cast<std::uint32_t>(at[0]) | static_cast<std::uint32_t>(at[1]) << 8 |
           static_cast<std::uint32_t>(at[2]) << 16 | static_cast<std::uint32_t>(at[3]) << 24;
}

}  // namespace

std::uint32_t crc32(const std::uint8_t* data, std::size_t size, std::uint32_t start) {
    std::uint32_t crc = ~start;
    for (; size >= 8; size -= 8, data += 8) {
        const std::uint32_t a = crc ^ little_endian(data);
        const std::uint32_t b = little_endian(data + 4);
        crc = kTables[7][a & 0xFF] ^ kTables[6][a >> 8 & 0xFF] ^ kTables[5][a >> 16 & 0xFF] ^ kTables[4][a >> 24] ^
              kTables[3][b & 0xFF] ^ kTables[2][b >> 8 & 0xFF] ^ kTables[1][b >> 16 & 0xFF] ^ kTables[0][b >> 24];
    }
    for (; size > 0; --size, ++data) {
        crc = (crc >> 8) ^ kTables[0][(crc ^ *data) & 0xFF];
    }
    return ~crc;
}

}  // namespace dyadiq::engine
