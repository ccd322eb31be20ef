// SPDX-License-Identifier: MIT
// Other ways to choose the tokens to attend, on the same cache: what SparQ is compared
// with. Not part of sparq.hpp: an engine needs none of them.
#pragma once

#include "baselines/flexgen.hpp"
#include "baselines/h2o.hpp"
#include "baselines/lm_infinite.hpp"
#include "baselines/quest.hpp"
