// Which card Device::open() takes if none is named.
#pragma once

#include "none_usable.hpp"

#include <dmaflow/kms.hpp>

#include <memory>
#include <optional>
#include <span>

namespace dmaflow::kms {

/// Why a card cannot show anything; nullopt if it has a monitor, or if only opening it can tell.
[[nodiscard]] std::optional<detail::Unusable> why_not(const Card& card);

/// Opens the first of @p cards that has a connected monitor and can be mastered. Errors: those of Device::open() with
/// an empty path.
[[nodiscard]] Result<std::unique_ptr<Device>> open_first(std::span<const Card> cards);

}  // namespace dmaflow::kms
