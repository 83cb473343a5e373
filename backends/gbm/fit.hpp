// Whether a layout meets the constraints on its strides, offsets and sizes, and which larger buffer might.
#pragma once

#include <dmaflow/error.hpp>
#include <dmaflow/layout.hpp>

#include <cstdint>
#include <optional>
#include <span>

namespace dmaflow::gbm {

/// Whether the alignments are powers of two, or 0 (not asked for).
[[nodiscard]] bool are_alignments(const Constraints& constraints) noexcept;

/// The first constraint that a layout in objects of these sizes does not meet; nullopt if it meets all.
[[nodiscard]] std::optional<Error> misfit_of(const Layout& layout, std::span<const std::uint64_t> object_sizes,
                                             const Constraints& constraints) noexcept;

/// The size to request from the driver instead of @p asked, so that a LINEAR layout may meet the constraints: longer
/// rows, or more of them. Nullopt if that cannot help.
[[nodiscard]] std::optional<Size> larger_size(const Layout& layout, std::span<const std::uint64_t> object_sizes,
                                              const Constraints& constraints, Size asked) noexcept;

}  // namespace dmaflow::gbm
