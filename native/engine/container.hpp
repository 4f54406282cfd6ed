// The container of `.dyq` files (docs/spec/dyq.md, section 2), read without copying.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace dyadiq::engine {

struct Record {
    int kind;  // 0 codes, 1 float64
    int bits;
    bool is_signed;
    std::int64_t count;
    const std::uint8_t* payload;
};

struct Container {
    std::string_view structure;
    std::vector<Record> records;  // in the order of the file
};

// Return what a file holds, with every checksum compared. Throws BadImage.
Container read_container(const std::uint8_t* data, std::size_t size);

}  // namespace dyadiq::engine
