// From the bytes of a compiled program to a checked plan: nothing runs that was not verified here first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>

#include "engine/plan.hpp"

namespace dyadiq::engine {

// What is wrong with a file, in a few words.
struct BadImage : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A program that needs an operator which this library was built without (operators.hpp); says which.
struct MissingOperator : BadImage {
    using BadImage::BadImage;
};

// Return the plan of a compiled program. `data` must be aligned to 64 bytes and outlive the plan, which points into it.
// Every offset, length, checksum, tensor and step is checked: after this, `run` reads and writes the arena, the inputs,
// the outputs and the file's own payloads only. Throws BadImage, and MissingOperator.
Plan open(const std::uint8_t* data, std::size_t size);

}  // namespace dyadiq::engine
