// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.28;

import {Signatures} from "./Signatures.sol";

/// A contract account of one key, which signs by EIP-1271. The owner is put
/// into its storage together with the code.
contract Wallet {
    address public owner; // slot 0

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        return Signatures.recover(hash, signature) == owner ? this.isValidSignature.selector : bytes4(0xffffffff);
    }

    /// Calls another contract in the wallet's name.
    function execute(address to, bytes calldata data) external returns (bytes memory) {
        require(msg.sender == owner, "caller is not the owner");
        (bool ok, bytes memory answer) = to.call(data);
        if (!ok) {
            assembly ("memory-safe") {
                revert(add(answer, 32), mload(answer))
            }
        }
        return answer;
    }
}
