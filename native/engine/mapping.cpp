#include "engine/mapping.hpp"

#include <cerrno>
#include <cstring>
#include <stdexcept>

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#else
#include <fstream>
#include <new>
#endif

namespace dyadiq::engine {

#if defined(__unix__) || defined(__APPLE__)

Mapping::Mapping(const char* path) {
    const auto failed = [] { return std::runtime_error(std::strerror(errno)); };
    const int file = ::open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        throw failed();
    }
    struct stat facts {};
    void* start = MAP_FAILED;
    errno = EINVAL;  // of what is no file, or an empty one
    if (::fstat(file, &facts) == 0 && S_ISREG(facts.st_mode) && facts.st_size > 0) {
        size_ = static_cast<std::size_t>(facts.st_size);
        int flags = MAP_PRIVATE;
#ifdef MAP_POPULATE
        flags |= MAP_POPULATE;  // all of it is read at once, for its checksums
#endif
        start = ::mmap(nullptr, size_, PROT_READ, flags, file, 0);
    }
    const std::runtime_error error = failed();
    ::close(file);
    if (start == MAP_FAILED) {
        throw error;
    }
    data_ = static_cast<std::uint8_t*>(start);
}

Mapping::~Mapping() { ::munmap(data_, size_); }

#else

constexpr std::align_val_t kPage{4096};

Mapping::Mapping(const char* path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file || file.tellg() <= 0) {
        throw std::runtime_error("cannot be read");
    }
    size_ = static_cast<std::size_t>(file.tellg());
    data_ = static_cast<std::uint8_t*>(::operator new(size_, kPage));
    file.seekg(0);
    if (!file.read(reinterpret_cast<char*>(data_), static_cast<std::streamsize>(size_))) {
        ::operator delete(data_, kPage);
        throw std::runtime_error("cannot be read");
    }
}

Mapping::~Mapping() { ::operator delete(data_, kPage); }

#endif

}  // namespace dyadiq::engine
