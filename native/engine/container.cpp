#include "engine/container.hpp"

#include <algorithm>
#include <cstring>

#include "engine/crc32.hpp"
#include "engine/image.hpp"

namespace dyadiq::engine {
namespace {

constexpr std::size_t kHeader = 64;
constexpr std::size_t kRecord = 64;
constexpr std::uint64_t kAlignment = 64;
constexpr std::uint64_t kMaxBytes = std::uint64_t{1} << 40;
constexpr std::uint8_t kMagic[8] = {0x89, 'D', 'Y', 'Q', '\r', '\n', 0x1A, '\n'};

template <typename T>
T number(const std::uint8_t* at) {
    T value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) {
        value = static_cast<T>(value | static_cast<T>(at[i]) << (8 * i));
    }
    return value;
}

std::uint64_t aligned(std::uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

void require(bool holds, const char* what) {
    if (!holds) {
        throw BadImage(what);
    }
}

Record read_record(const std::uint8_t* at, const std::uint8_t* data, std::uint64_t start, std::uint64_t end) {
    Record record{at[2], at[3], (at[4] & 1) != 0, 1, data + start};
    const unsigned dimensions = at[5];
    require(record.kind <= 1 && dimensions <= 6, "a record means nothing");
    for (unsigned d = 0; d < dimensions; ++d) {
        const std::int64_t size = number<std::uint32_t>(at + 6 + 4 * d);
        require(size == 0 || record.count <= static_cast<std::int64_t>(kMaxBytes) / size, "a tensor is larger than any file");
        record.count *= size;
    }
    const auto bits = static_cast<std::uint64_t>(record.kind == 1 ? 64 : record.bits);
    require(bits >= 1 && bits <= 64, "a record means nothing");
    const std::uint64_t bytes = (static_cast<std::uint64_t>(record.count) * bits + 7) / 8;
    require(number<std::uint64_t>(at + 40) == bytes, "a record has another length than its shape");
    require(number<std::uint64_t>(at + 32) == start, "a payload does not lie where it must");
    require(bytes <= end - start, "a payload lies outside the file");
    require(crc32(data + start, bytes) == number<std::uint32_t>(at + 48), "the checksum of a tensor is wrong");
    for (std::uint64_t i = start + bytes; i < std::min(start + aligned(bytes), end); ++i) {
        require(data[i] == 0, "padding after a tensor is not zero");
    }
    return record;
}

}  // namespace

Container read_container(const std::uint8_t* data, std::size_t size) {
    require(size >= kHeader, "it is shorter than a header");
    require(reinterpret_cast<std::uintptr_t>(data) % kAlignment == 0, "it does not lie at a multiple of 64 bytes");
    require(std::memcmp(data, kMagic, sizeof kMagic) == 0, "it is no .dyq file");
    require(number<std::uint16_t>(data + 8) == 1, "its container is of a newer version");
    require(crc32(data, 60) == number<std::uint32_t>(data + 60), "the checksum of its header is wrong");
    require(number<std::uint64_t>(data + 16) == size, "it has another length than its header says");
    const std::uint64_t n_tensors = number<std::uint32_t>(data + 12);
    const std::uint64_t name_bytes = number<std::uint64_t>(data + 24);
    const std::uint64_t structure_bytes = number<std::uint64_t>(data + 32);
    require(name_bytes <= size && structure_bytes <= size && n_tensors <= size / kRecord, "its sections do not fit it");
    std::uint64_t payload = kHeader + kRecord * n_tensors + aligned(name_bytes) + aligned(structure_bytes);
    require(payload <= size, "its sections do not fit it");
    const std::uint32_t body = number<std::uint32_t>(data + 40);
    require(crc32(data + kHeader, payload - kHeader) == body, "the checksum of its records is wrong");
    const std::uint64_t structure = kHeader + kRecord * n_tensors + aligned(name_bytes);
    Container found{{reinterpret_cast<const char*>(data + structure), structure_bytes}, {}};
    found.records.reserve(n_tensors);
    for (std::uint64_t i = 0; i < n_tensors; ++i) {
        require(payload <= size, "a payload lies outside the file");
        const std::uint8_t* at = data + kHeader + kRecord * i;
        found.records.push_back(read_record(at, data, payload, size));
        payload += aligned(number<std::uint64_t>(at + 40));
    }
    require(payload == size, "it has bytes that belong to nothing");
    return found;
}

}  // namespace dyadiq::engine
