// Whether a layout meets what was asked of its strides, offsets and sizes, and what larger buffer might.
#pragma once

#include <dmaflow/error.hpp>
#include <dmaflow/layout.hpp>

#include <cstdint>
#include <optional>
#include <span>

namespace dmaflow::gbm {

/// Powers of two, or nothing asked.
[[nodiscard]] bool are_alignments(const Constraints& constraints) noexcept;

/// The first constraint that a layout in objects of these sizes does not meet, or nothing.
[[nodiscard]] std::optional<Error> misfit_of(const Layout& layout, std::span<const std::uint64_t> object_sizes,
                                             const Constraints& constraints) noexcept;

/// Which size to ask the driver for instead of @p asked, so that a LINEAR layout may meet them: longer rows, or more of
/// them. Nothing where that cannot help.
[[nodiscard]] std::optional<Size> larger_size(const Layout& layout, std::span<const std::uint64_t> object_sizes,
                                              const Constraints& constraints, Size asked) noexcept;

}  // namespace dmaflow::gbm
