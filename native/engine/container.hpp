// The container of `.dyq` files (docs/spec/dyq.md, section 2), read without copying.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dyadiq::engine {

struct Record {
    int kind;  // 0 codes, 1 float64
    int bits;
    bool is_signed;
    std::int64_t count;
    const std::uint8_t* payload;
};

// Return the tensors of a file, in its order, with every checksum compared. Throws BadImage.
std::vector<Record> read_container(const std::uint8_t* data, std::size_t size);

}  // namespace dyadiq::engine
