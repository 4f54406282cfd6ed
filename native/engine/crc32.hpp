// CRC-32 of zlib and PNG, with which `.dyq` containers are checked.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dyadiq::engine {

std::uint32_t crc32(const std::uint8_t* data, std::size_t size, std::uint32_t start = 0);

}  // namespace dyadiq::engine
