// Which card Device::open() takes where none is named.
#pragma once

#include "none_usable.hpp"

#include <dmaflow/kms.hpp>

#include <memory>
#include <optional>
#include <span>

namespace dmaflow::kms {

/// Why a card shows nothing; nothing where it has a monitor, or where only opening it can tell.
[[nodiscard]] std::optional<detail::Unusable> why_not(const Card& card);

/// The first of @p cards with a connected monitor that can be mastered. Errors: as Device::open() says of an empty
/// path.
[[nodiscard]] Result<std::unique_ptr<Device>> open_first(std::span<const Card> cards);

}  // namespace dmaflow::kms
