# SPDX-License-Identifier: Apache-2.0
from .luns import *
from .opcodes import *
from .sbc import *
from .spc import *
from .status import *
