// A file as memory: mapped read-only where the system can, else read.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dyadiq::engine {

class Mapping {
   public:
    // Throws std::runtime_error, with the system's words.
    explicit Mapping(const char* path);
    ~Mapping();
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;

    const std::uint8_t* data() const { return data_; }
    std::size_t size() const { return size_; }

   private:
    std::uint8_t* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace dyadiq::engine
